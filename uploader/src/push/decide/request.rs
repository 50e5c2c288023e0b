//! The request for a push.

use std::collections::BTreeSet;
use std::sync::Arc;

use nix_derivation::StorePath;
use nix_narinfo::TrustedPublicKey;

/// A path that the caller wants in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The path.
    pub path: Arc<StorePath>,
    /// Whether the hook says that this machine built the path. A path that the store calls `ultimate` also counts
    /// as built here.
    pub built_here: bool,
    /// The derivation that the hook says was built, if it does.
    pub derivation: Option<StorePath>,
}

/// A request for a push.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The paths.
    pub roots: Vec<Root>,
    /// Push only the roots, not their closures. The references of the roots must be available already.
    pub no_closure: bool,
    /// Add the roots to the pins that the configuration wants.
    pub pins: bool,
    /// Make the plan, and change nothing in the bucket.
    pub dry_run: bool,
    /// Read each narinfo in the bucket, even when a listing shows the expected size.
    pub read_all: bool,
    /// The paths whose narinfos are read even when a listing shows the expected size, and even when the session has read
    /// them before: somebody doubts them.
    pub doubted: BTreeSet<StorePath>,
    /// The public keys that Nix trusted when the paths were queued.
    pub extra_keys: Vec<TrustedPublicKey>,
    /// The parked paths. They are not pushed.
    pub parked: BTreeSet<StorePath>,
    /// The hash parts of the paths that somebody has removed from the bucket for good. The pusher fills them in.
    pub removed: BTreeSet<[u8; 20]>,
}
