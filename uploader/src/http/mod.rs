//! HTTP: connections and trust, diagnosis of failures, a reader without credentials, forwarding.

pub mod diagnosis;
pub mod forward;
pub mod reader;
#[cfg(test)]
pub mod scripted;
pub mod transport;

pub use forward::Forwarder;
pub use reader::{Answer, PublicReader};
