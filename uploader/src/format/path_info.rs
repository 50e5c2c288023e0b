//! Path infos: the facts that a store keeps about a valid path.

use std::sync::Arc;

use nix_derivation::{StorePath, nixbase32};

/// The size from which a NAR is large, in bytes. Below this size, round trips cost more than bytes.
const LARGE: u64 = 1 << 20;

/// Whether a NAR of this size in bytes is small.
pub fn is_small(nar_size: u64) -> bool {
    nar_size < LARGE
}

/// The facts that a store keeps about a valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The store path.
    pub path: Arc<StorePath>,
    /// The deriver: the derivation that built the path, if the store knows it.
    pub deriver: Option<StorePath>,
    /// The SHA-256 of the NAR.
    pub nar_hash: [u8; 32],
    /// The size of the NAR in bytes.
    pub nar_size: u64,
    /// The references. They contain the path itself if the path refers to itself.
    pub references: References,
    /// The time when the path became valid, in seconds since 1970.
    pub registration_time: u64,
    /// Whether the store says that this machine built the path.
    pub ultimate: bool,
    /// The signatures, as the store gives them. They may be malformed.
    pub signatures: Box<[String]>,
    /// The content address, as the store gives it.
    pub ca: Option<String>,
}

impl PathInfo {
    /// The hash of the NAR in nix-base32, without `sha256:`.
    pub fn nar_hash_nix32(&self) -> String {
        nixbase32::encode(&self.nar_hash)
    }

    /// The references without the path itself.
    pub fn dependencies(&self) -> impl Iterator<Item = &Arc<StorePath>> {
        self.references.iter().filter(|reference| **reference != self.path)
    }
}

/// A sorted set of store paths. All references of a closure to the same path share one copy of the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References(Box<[Arc<StorePath>]>);

impl References {
    /// The paths in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<StorePath>> {
        self.0.iter()
    }

    /// Whether the set contains `path`.
    pub fn contains(&self, path: &StorePath) -> bool {
        self.0.binary_search_by(|one| (**one).cmp(path)).is_ok()
    }

    /// Replaces each path by another copy of the same path.
    pub(crate) fn replace(&mut self, mut with: impl FnMut(&Arc<StorePath>) -> Arc<StorePath>) {
        self.0.iter_mut().for_each(|path| *path = with(path));
    }
}

impl FromIterator<StorePath> for References {
    fn from_iter<I: IntoIterator<Item = StorePath>>(paths: I) -> Self {
        let mut paths: Vec<_> = paths.into_iter().map(Arc::new).collect();
        paths.sort_unstable();
        paths.dedup();
        Self(paths.into())
    }
}
