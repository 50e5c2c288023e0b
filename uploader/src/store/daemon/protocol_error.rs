//! The errors of a conversation with the daemon.

use std::{fmt, io};

/// An error that the daemon reports, without its colours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DaemonMessage {
    /// The message.
    pub message: String,
    /// The operations in which the error occurred, innermost first; at most three.
    pub traces: Vec<String>,
}

impl fmt::Display for DaemonMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.traces.iter().try_for_each(|trace| write!(f, "; {trace}"))
    }
}

/// An error in a conversation with the daemon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// The daemon ended the conversation.
    #[error("the nix daemon closed the connection")]
    Closed,
    /// The daemon was silent for too long.
    #[error("the nix daemon did not answer in time")]
    TimedOut,
    /// The connection failed.
    #[error(transparent)]
    Io(io::Error),
    /// The bytes violate the protocol.
    #[error("malformed reply of the nix daemon: {0}")]
    Malformed(String),
    /// The daemon reported an error.
    #[error("the nix daemon says: {0}")]
    Daemon(DaemonMessage),
}

impl From<io::Error> for ProtocolError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted => Self::Closed,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Io(error),
        }
    }
}

impl ProtocolError {
    /// The bytes violate the protocol.
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}
