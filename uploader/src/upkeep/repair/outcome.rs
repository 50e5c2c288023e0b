//! What became of paths at fault.

use super::decide::Plan;

/// How a path was mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// The narinfo names another object of the bucket, with this key.
    NarInBucket(String),
    /// The NAR was sent from the local store.
    NarFromStore,
    /// The NAR was sent from the cache with this name.
    NarFrom(String),
    /// The path was pushed from the local store.
    Pushed,
    /// The path was taken from another cache.
    Fetched,
    /// Another writer has mended it meanwhile.
    ByAnother,
}

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mending {
    /// Clients can take it.
    Mended(How),
    /// It stays as it was, for this reason.
    Left(String),
}

/// A path at fault with what became of it.
pub type Mended = (Plan, Mending);
