//! The client of the nix-daemon. From the outside to the inside: operations, the conversation, the connection, the
//! handshake, the log messages before a reply, and the wire format.

mod connection;
mod conversation;
mod explain;
mod handshake;
mod operations;
mod plain_text;
mod protocol_error;
mod reply;
mod stderr;
mod wire;

pub use handshake::{ProtocolVersion, Server};
pub use operations::{DEFAULT_TIMEOUT, Daemon};
