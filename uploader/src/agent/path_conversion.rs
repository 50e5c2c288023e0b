//! The border between the two types of store path.
//!
//! The queue keeps a store path as text with its store directory, because the hook must stay small. The store, the push
//! and the decisions use [`StorePath`], which leaves the store directory out. Only code that reads or writes the queue
//! converts.

use larder_hook::store_path::StorePath as QueuedPath;

use crate::store::{StoreLocation, StorePath};

/// Converts a path of the queue; `None` when it does not lie in this store directory.
pub(super) fn from_queued(store: &StoreLocation, path: &QueuedPath) -> Option<StorePath> {
    store.store_dir.parse_path(path.as_str().as_bytes()).ok()
}

/// Converts a path of the store; `None` when the queue's rules for names refuse it.
pub(super) fn to_queued(store: &StoreLocation, path: &StorePath) -> Option<QueuedPath> {
    QueuedPath::parse(store.store_dir.as_str(), &store.store_dir.render_path(path)).ok()
}
