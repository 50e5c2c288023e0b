//! A connection to the Nix daemon that is opened when it is first needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::error::{Area, Error, Result};
use crate::store::{DEFAULT_TIMEOUT, Daemon, StoreLocation};

/// Opens a connection on demand. An error makes a connection unusable; the next use opens another.
///
/// A daemon that cannot be reached or is silent is tried once until [`DaemonConnection::close`]: one request of the
/// event loop may use the daemon for many paths, and must not wait once for each path.
#[derive(Debug)]
pub(super) struct DaemonConnection {
    store: Arc<StoreLocation>,
    /// How long the daemon may be silent.
    timeout: Duration,
    open: Option<Daemon>,
    /// When the open connection was last handed out.
    used: Instant,
    /// Why the daemon is not tried again until the next [`DaemonConnection::close`].
    failed: Option<Error>,
}

impl DaemonConnection {
    /// A connection that is not open yet.
    pub(super) fn new(store: Arc<StoreLocation>) -> Self {
        Self { store, timeout: DEFAULT_TIMEOUT, open: None, used: Instant::now(), failed: None }
    }

    /// The open connection. Blocks while it is opened.
    ///
    /// # Errors
    /// The daemon cannot be reached, or does not answer in time.
    pub(super) fn get(&mut self) -> Result<&mut Daemon> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let open = self.open.take();
        // A daemon that answers with an error is not silent: the next connection may work.
        if open.as_ref().is_some_and(Daemon::is_broken) && self.used.elapsed() >= self.timeout {
            let text = format!("the Nix daemon was silent for {} s", self.timeout.as_secs());
            return Err(self.fail(Error::transient(Area::Store, text)));
        }
        let daemon = match open.filter(|daemon| !daemon.is_broken()) {
            Some(daemon) => daemon,
            None => match Daemon::connect_with(&self.store, Some(self.timeout)) {
                Ok(daemon) => daemon,
                Err(error) => return Err(self.fail(error)),
            },
        };
        self.used = Instant::now();
        Ok(self.open.insert(daemon))
    }

    fn fail(&mut self, error: Error) -> Error {
        self.failed.insert(error).clone()
    }

    /// Ends the connection, so that no process of the daemon stays behind while the agent is idle. The next use tries
    /// the daemon again.
    pub(super) fn close(&mut self) {
        (self.open, self.failed) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::store::{DaemonAddress, StoreDir};

    #[test]
    fn a_silent_daemon_is_waited_for_once_until_the_connection_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        // The kernel accepts connections, and nobody answers.
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let store = StoreLocation {
            store_dir: StoreDir::default(),
            real_dir: "/nix/store".into(),
            state_dir: "/nix/var/nix".into(),
            log_dir: "/nix/var/log/nix".into(),
            daemon: DaemonAddress::Socket(socket),
        };
        let mut connection = DaemonConnection::new(Arc::new(store));
        connection.timeout = Duration::from_millis(50);
        let connections = || std::iter::from_fn(|| listener.accept().ok()).count();
        for _ in 0..3 {
            assert!(connection.get().is_err());
        }
        assert_eq!(connections(), 1);
        connection.close();
        assert!(connection.get().is_err());
        assert_eq!(connections(), 1);
    }
}
