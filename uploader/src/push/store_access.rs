//! The questions that a push asks the daemon of the local store. A question blocks, so it runs on a thread for blocking
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
    /// A connection that the caller has opened. The daemon keeps the temporary roots of a connection until it is
    /// closed.
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
                let closure = known_closure(&mut daemon, roots);
                self.lend(daemon);
                closure
            }
            None => known_closure(&mut Daemon::connect(&self.location)?, roots),
        }
    }

    /// Whether the daemon says that `path` is not valid. Missing files alone do not show that, and neither does an
    /// empty store.
    pub(super) async fn is_gone(&self, path: &Arc<StorePath>) -> bool {
        let (store, asked) = (self.location.clone(), path.clone());
        let ask = move || {
            let mut daemon = Daemon::connect(&store)?;
            let is_gone = daemon.valid_paths(&[asked])?.is_empty();
            if is_gone {
                daemon.check_not_empty()?;
            }
            Ok::<_, Error>(is_gone)
        };
        matches!(tokio::task::spawn_blocking(ask).await, Ok(Ok(true)))
    }

    /// Closes the lent connection. When larder has started the daemon, this waits for the daemon's end.
    pub(super) async fn close(&self) {
        let lent = self.lent.clone();
        let _ = tokio::task::spawn_blocking(move || drop(lock(&lent).take())).await;
    }
}

/// The closure of `roots` in a store that can show that a path is gone.
fn known_closure(daemon: &mut Daemon, roots: &[Arc<StorePath>]) -> Result<Closure> {
    let closure = closure(daemon, roots)?;
    if closure.infos.is_empty() && !closure.missing.is_empty() {
        daemon.check_not_empty()?;
    }
    Ok(closure)
}

#[cfg(test)]
mod tests {
    use nix_derivation::StoreDir;

    use super::*;
    use crate::store::DaemonAddress;

    /// Access to a store whose daemon does not listen.
    fn unreachable() -> StoreAccess {
        StoreAccess::new(Arc::new(StoreLocation {
            store_dir: StoreDir::default(),
            real_dir: "/nix/store".into(),
            state_dir: "/nix/var/nix".into(),
            log_dir: "/nix/var/log/nix".into(),
            daemon: DaemonAddress::Socket("/nonexistent/socket".into()),
        }))
    }

    #[tokio::test]
    async fn a_path_counts_as_gone_only_when_the_daemon_says_so() {
        let path = Arc::new(StorePath::from_parts([7; 20], "path").unwrap());
        assert!(!unreachable().is_gone(&path).await);
    }

    #[tokio::test]
    async fn no_closure_is_read_without_a_daemon() {
        let path = Arc::new(StorePath::from_parts([7; 20], "path").unwrap());
        let read = unreachable().closure_with(vec![path], |_, _| ()).await;
        assert_eq!(read.unwrap_err().area(), Area::Store);
    }
}
