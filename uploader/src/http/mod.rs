//! HTTP: connections, trust, diagnosis of failures, reading without credentials, and forwarding.
//!
//! The files here are the only ones that name the types of the HTTP stack underneath. Everything else sees the types of
//! the `http` crate and [`Body`].

mod body;
mod credentials_client;
pub(crate) mod diagnosis;
mod forward;
mod reader;
#[cfg(test)]
pub(crate) mod scripted;
mod transport;
mod trust;

pub use body::Body;
pub(crate) use body::ReadError;
pub(crate) use credentials_client::CredentialsClient;
pub use forward::{Forwarder, NoAnswer};
pub use reader::{Answer, Download, PublicReader};
pub use transport::Response;
pub(crate) use transport::{Request, SendError, Timeouts, Transport};
pub(crate) use trust::Trust;
