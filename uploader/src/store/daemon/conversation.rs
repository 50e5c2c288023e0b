//! A conversation with the daemon: one exchange of a request and its reply after another.

use std::io::Write;
#[cfg(any(test, feature = "fuzzing"))]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::connection::Connection;
use super::explain::{failed_earlier, failed_handshake, failed_operation};
use super::handshake::{Server, handshake};
use super::protocol_error::ProtocolError;
use super::stderr;
use crate::base::error::Result;
#[cfg(any(test, feature = "fuzzing"))]
use crate::base::error::{Area, Error};
use crate::store::location::DaemonAddress;

/// The bytes of requests that larder sends ahead of their replies. They fit into the smallest buffer that a pipe or a
/// socket has on any system. So sending never waits for the daemon, which may itself wait until larder reads.
const AHEAD: usize = 4096;

/// A conversation after its handshake.
///
/// An error makes the conversation unusable, because it is unknown what the daemon sends next. Every later exchange
/// fails.
pub(super) struct Conversation {
    connection: Connection,
    server: Server,
    timeout: Option<Duration>,
    broken: Option<String>,
}

impl Conversation {
    /// Connects to the daemon. `timeout` is the time that the daemon may be silent.
    pub(super) fn open(address: &DaemonAddress, timeout: Option<Duration>) -> Result<Self> {
        Self::begin(Connection::open(address, timeout)?, address, timeout)
    }

    /// Begins a conversation over an open stream. Errors name `address` as the address of the daemon.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn over(
        stream: UnixStream,
        address: &DaemonAddress,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let connection = Connection::over(stream, timeout)
            .map_err(|error| Error::permanent(Area::Store, "cannot use a socket").because(error))?;
        Self::begin(connection, address, timeout)
    }

    fn begin(mut connection: Connection, address: &DaemonAddress, timeout: Option<Duration>) -> Result<Self> {
        match handshake(&mut connection.from, &mut connection.to) {
            Ok(server) => Ok(Self { connection, server, timeout, broken: None }),
            Err(error) => Err(failed_handshake(address, error, || connection.complaint())),
        }
    }

    /// The facts that the daemon told in the handshake.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Whether an error has made the conversation unusable.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Performs one exchange. `what` names the operation in errors: "query all valid paths".
    pub(super) fn exchange<T>(
        &mut self,
        what: &str,
        exchange: impl FnOnce(&mut Connection) -> Result<T, ProtocolError>,
    ) -> Result<T> {
        if let Some(cause) = &self.broken {
            return Err(failed_earlier(what, cause));
        }
        self.broken = Some("an operation was interrupted".into());
        match exchange(&mut self.connection) {
            Ok(value) => {
                self.broken = None;
                Ok(value)
            }
            Err(error) => {
                self.broken = Some(error.to_string());
                let complaint = match error {
                    ProtocolError::Closed => self.connection.complaint(),
                    _ => None,
                };
                Err(failed_operation(what, error, &self.server, self.timeout, complaint))
            }
        }
    }

    /// Performs the same operation on many items, and sends some requests ahead of their replies. `request` writes the
    /// request for an item, `reply` reads its reply.
    pub(super) fn exchange_each<I, T>(
        &mut self,
        what: &str,
        items: &[I],
        mut request: impl FnMut(&mut Vec<u8>, &I) -> Result<(), ProtocolError>,
        mut reply: impl FnMut(&mut Connection, &I) -> Result<T, ProtocolError>,
    ) -> Result<Vec<T>> {
        let mut replies = Vec::with_capacity(items.len());
        let (mut sent, mut bytes) = (0, Vec::new());
        while replies.len() < items.len() {
            self.exchange(what, |connection| {
                let mut ahead = 0;
                while let Some(item) = items.get(sent) {
                    bytes.clear();
                    request(&mut bytes, item)?;
                    ahead += bytes.len();
                    if ahead > AHEAD && ahead > bytes.len() {
                        break;
                    }
                    connection.to.write_all(&bytes)?;
                    sent += 1;
                }
                connection.to.flush()?;
                for item in &items[replies.len()..sent] {
                    stderr::drain(&mut connection.from)?;
                    replies.push(reply(connection, item)?);
                }
                Ok(())
            })?;
        }
        Ok(replies)
    }
}

/// Sends the request that has been written, and reads up to the reply.
pub(super) fn start_reply(connection: &mut Connection) -> Result<(), ProtocolError> {
    connection.to.flush()?;
    stderr::drain(&mut connection.from)
}
