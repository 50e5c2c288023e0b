//! The client of the nix-daemon: operations, their connection, the handshake, and the wire format.

mod connection;
mod handshake;
mod operations;
mod stderr;
mod wire;

pub use handshake::{ProtocolVersion, Server};
pub use operations::{DEFAULT_TIMEOUT, Daemon};
