//! The questions that a push asks the daemon of the local store. Each question blocks, so it runs on a thread for blocking
//! work.

use std::sync::{Arc, Mutex};

use nix_derivation::StorePath;

use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::store::{Closure, Daemon, StoreLocation, closure};

/// Access to the local store.
#[derive(Clone, Debug)]
pub(super) struct StoreAccess {
    /// The store.
    pub(super) location: Arc<StoreLocation>,
    /// A connection that the caller opened. The daemon keeps the connection's temporary roots until it is closed.
    lent: Arc<Mutex<Option<Daemon>>>,
}

impl StoreAccess {
    /// Access to the store at `location`.
    pub(super) fn new(location: Arc<StoreLocation>) -> Self {
        Self { location, lent: Arc::default() }
    }

    /// Takes over a connection.
    pub(super) fn lend(&self, daemon: Daemon) {
        *lock(&self.lent) = Some(daemon);
    }

    /// Reads the closure of `roots`, and computes a value from it on the same thread.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub(super) async fn closure_with<T: Send + 'static>(
        &self,
        roots: Vec<Arc<StorePath>>,
        compute: impl FnOnce(&StoreLocation, &Closure) -> T + Send + 'static,
    ) -> Result<(Closure, T)> {
        let this = self.clone();
        let read = move || {
            let closure = this.read_closure(&roots)?;
            let value = compute(&this.location, &closure);
            Ok((closure, value))
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| {
            Err(Error::permanent(Area::General, "the thread that reads the store ended early").because(error))
        })
    }

    fn read_closure(&self, roots: &[Arc<StorePath>]) -> Result<Closure> {
        let lent = lock(&self.lent).take();
        match lent {
            Some(mut daemon) => {
                let closure = closure(&mut daemon, roots);
                self.lend(daemon);
                closure
            }
            None => closure(&mut Daemon::connect(&self.location)?, roots),
        }
    }

    /// Whether the daemon says that `path` is not valid. Missing files alone do not show that.
    pub(super) async fn is_gone(&self, path: &Arc<StorePath>) -> bool {
        let (store, asked) = (self.location.clone(), path.clone());
        let ask = move || Daemon::connect(&store)?.valid_paths(&[asked]);
        matches!(tokio::task::spawn_blocking(ask).await, Ok(Ok(valid)) if !valid.contains(path))
    }

    /// Closes the lent connection. A daemon that larder started takes a moment to end.
    pub(super) async fn close(&self) {
        let lent = self.lent.clone();
        let _ = tokio::task::spawn_blocking(move || drop(lock(&lent).take())).await;
    }
}
