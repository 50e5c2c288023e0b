//! A connection to the Nix daemon that is opened when it is first needed.

use std::sync::Arc;

use crate::base::error::Result;
use crate::store::{Daemon, StoreLocation};

/// Opens a connection on demand. An error makes a connection unusable; the next use opens another.
#[derive(Debug)]
pub(super) struct DaemonConnection {
    store: Arc<StoreLocation>,
    open: Option<Daemon>,
}

impl DaemonConnection {
    /// A connection that is not open yet.
    pub(super) fn new(store: Arc<StoreLocation>) -> Self {
        Self { store, open: None }
    }

    /// The open connection. Blocks while it is opened.
    ///
    /// # Errors
    /// The daemon cannot be reached, or does not answer in time.
    pub(super) fn get(&mut self) -> Result<&mut Daemon> {
        let daemon = match self.open.take().filter(|daemon| !daemon.is_broken()) {
            Some(daemon) => daemon,
            None => Daemon::connect(&self.store)?,
        };
        Ok(self.open.insert(daemon))
    }

    /// Ends the connection, so that no process of the daemon stays behind while the agent is idle.
    pub(super) fn close(&mut self) {
        self.open = None;
    }
}
