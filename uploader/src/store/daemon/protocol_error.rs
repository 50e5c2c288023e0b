//! The errors of a conversation with the daemon.

use std::{fmt, io};

/// An error as the daemon reports it, without its colours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DaemonMessage {
    /// What it says.
    pub message: String,
    /// What it was doing, innermost first.
    pub traces: Vec<String>,
}

impl fmt::Display for DaemonMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.traces.iter().try_for_each(|trace| write!(f, "; {trace}"))
    }
}

/// What can go wrong in a conversation with the daemon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// The other side ended the conversation.
    #[error("the nix daemon closed the connection")]
    Closed,
    /// Nothing came within the time allowed.
    #[error("the nix daemon did not answer in time")]
    TimedOut,
    /// The connection failed.
    #[error(transparent)]
    Io(io::Error),
    /// The bytes are not what the protocol says.
    #[error("malformed answer of the nix daemon: {0}")]
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
    /// The bytes are not what the protocol says.
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}
