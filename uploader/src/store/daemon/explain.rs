//! Errors of the conversation with the daemon, explained for people: the operation, the cause, and a way out.

use std::time::Duration;

use super::handshake::{HandshakeError, Server};
use super::protocol_error::ProtocolError;
use crate::base::error::{Area, Error, Retry};
use crate::store::location::DaemonAddress;

/// Explains why an operation failed. `complaint` is the text that a `nix-daemon --stdio` wrote before it ended,
/// `timeout` the time that the daemon may be silent.
pub(super) fn failed_operation(
    what: &str,
    error: ProtocolError,
    server: &Server,
    timeout: Option<Duration>,
    complaint: Option<String>,
) -> Error {
    let retry = match error {
        ProtocolError::Closed | ProtocolError::TimedOut | ProtocolError::Io(_) => Retry::Transient,
        ProtocolError::Malformed(_) | ProtocolError::Daemon(_) => Retry::Unknown,
    };
    let explained = Error::new(Area::Store, retry, format!("cannot {what}"));
    match error {
        ProtocolError::Closed => match complaint {
            Some(complaint) => explained.because(format!("{error}; its last output was: {complaint}")),
            None => explained
                .because(error)
                .hint("if nix-daemon was restarted, try again; otherwise see the log of nix-daemon"),
        },
        ProtocolError::TimedOut => {
            let seconds = timeout.unwrap_or_default().as_secs_f32();
            explained
                .because(format!("the nix daemon was silent for {seconds} s"))
                .hint("check whether nix-daemon hangs")
        }
        ProtocolError::Malformed(_) => {
            let Server { nix_version, protocol, .. } = server;
            explained.because(error).hint(format!(
                "please report this with the version of the daemon, {nix_version} (protocol {protocol})"
            ))
        }
        error => explained.because(error),
    }
}

/// The error of every operation on a connection that an earlier error has made unusable.
pub(super) fn failed_earlier(what: &str, cause: &str) -> Error {
    Error::transient(Area::Store, format!("cannot {what}"))
        .because(format!("the connection to the nix daemon failed earlier ({cause})"))
        .hint("connect to the daemon again")
}

/// Explains why the handshake with the daemon at `address` failed.
pub(super) fn failed_handshake(
    address: &DaemonAddress,
    error: HandshakeError,
    complaint: impl FnOnce() -> Option<String>,
) -> Error {
    let place = match address {
        DaemonAddress::Socket(path) => path.display(),
        DaemonAddress::Stdio { program, .. } => program.display(),
    };
    let what = format!("cannot talk to the nix daemon at `{place}`");
    match error {
        HandshakeError::Version(_) => Error::permanent(Area::Store, what).because(error).hint(
            "larder works with nix 2.8 and later, and with lix; restart nix-daemon after an upgrade of nix",
        ),
        HandshakeError::NotNix(_) => Error::permanent(Area::Store, what).because(error),
        HandshakeError::Protocol(ProtocolError::Daemon(_)) => Error::permanent(Area::Store, what)
            .because(error)
            .hint("check whether `allowed-users` in the nix.conf of the daemon allows this user"),
        HandshakeError::Protocol(ProtocolError::Malformed(_)) => {
            Error::new(Area::Store, Retry::Unknown, what).because(error)
        }
        HandshakeError::Protocol(_) => match complaint() {
            Some(complaint) => Error::new(Area::Store, Retry::Unknown, what).because(complaint),
            // The daemon closes the connection at once to users that it does not allow.
            None => Error::transient(Area::Store, what).because(error).hint(
                "check whether `allowed-users` in nix.conf allows this user; see also the log of nix-daemon",
            ),
        },
    }
}
