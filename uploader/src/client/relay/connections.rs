//! The open connections of a relay, of which there is a limited number.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::activity::Activity;
use crate::base::lock::lock;

/// The most open connections. Nix opens up to 25 for each of its processes. Each may need another one to a cache, and a
/// process may have 1024 open files by default.
pub(super) const MAX_CONNECTIONS: usize = 256;

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Vec<Arc<Slot>>>,
    /// Notified when a connection has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    activity: Arc<Activity>,
    close: Notify,
}

/// An open connection. It counts as open until this value is dropped.
pub(super) struct OpenConnection {
    slot: Arc<Slot>,
    all: Arc<Connections>,
}

impl Connections {
    /// Resolves when another connection may be opened. If there are too many, the connection that has had no request for
    /// the longest time is closed. If all have requests, this waits for the end of one.
    pub(super) async fn room(&self) {
        loop {
            let ended = self.ended.notified();
            {
                let open = lock(&self.open);
                if open.len() < MAX_CONNECTIONS {
                    return;
                }
                let idle = open.iter().filter_map(|slot| Some((slot.activity.idle_since()?, slot)));
                if let Some((_, oldest)) = idle.min_by_key(|(since, _)| *since) {
                    oldest.close.notify_one();
                }
            }
            ended.await;
        }
    }

    /// Counts a connection as open.
    pub(super) fn open(self: &Arc<Self>) -> OpenConnection {
        let slot = Arc::<Slot>::default();
        lock(&self.open).push(slot.clone());
        OpenConnection { slot, all: self.clone() }
    }
}

impl OpenConnection {
    /// The requests of the connection.
    pub(super) fn activity(&self) -> Arc<Activity> {
        self.slot.activity.clone()
    }

    /// Resolves when the connection has to be closed, so that others have room.
    pub(super) async fn closed(&self) {
        self.slot.close.notified().await;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        lock(&self.all.open).retain(|other| !Arc::ptr_eq(other, &self.slot));
        self.all.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_oldest_idle_connection_gives_way_and_running_requests_do_not() {
        let all = Arc::new(Connections::default());
        let running: Vec<_> = (1..MAX_CONNECTIONS)
            .map(|_| {
                let connection = all.open();
                let request = Activity::begin([connection.activity(), Arc::default()]);
                (connection, request)
            })
            .collect();
        all.room().await;
        let idle = all.open();
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, all.room()).await.is_err(), "there is room while all are open");
        idle.closed().await;
        drop(idle);
        all.room().await;
        let last = all.open();
        let _request = Activity::begin([last.activity(), Arc::default()]);
        assert!(tokio::time::timeout(soon, all.room()).await.is_err(), "there is room while all are open");
        assert!(tokio::time::timeout(soon, last.closed()).await.is_err(), "a running request was closed");
        drop(running);
        all.room().await;
    }
}
