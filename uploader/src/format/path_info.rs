//! What the store knows about one of its paths.

use std::sync::Arc;

use nix_derivation::{StorePath, nixbase32};

/// What the store knows about one of its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: Arc<StorePath>,
    /// The derivation that it was built from, if that is known.
    pub deriver: Option<StorePath>,
    /// SHA-256 of its NAR.
    pub nar_hash: [u8; 32],
    /// The length of its NAR.
    pub nar_size: u64,
    /// What it refers to; itself among them if it does.
    pub references: References,
    /// When it became valid, in seconds since 1970.
    pub registration_time: u64,
    /// Whether it was built here, as far as the store knows.
    pub ultimate: bool,
    /// Its signatures, as given.
    pub signatures: Box<[String]>,
    /// Its content address, as given.
    pub ca: Option<String>,
}

impl PathInfo {
    /// The NAR's hash in nix-base32, without `sha256:`.
    pub fn nar_hash_nix32(&self) -> String {
        nixbase32::encode(&self.nar_hash)
    }

    /// What it refers to, save itself.
    pub fn dependencies(&self) -> impl Iterator<Item = &Arc<StorePath>> {
        self.references.iter().filter(|reference| **reference != self.path)
    }
}

/// Store paths in their order, each once. In a closure each path is in memory once, however many refer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References(Box<[Arc<StorePath>]>);

impl References {
    /// The paths, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<StorePath>> {
        self.0.iter()
    }

    /// Whether `path` is among them.
    pub fn contains(&self, path: &StorePath) -> bool {
        self.0.binary_search_by(|one| (**one).cmp(path)).is_ok()
    }

    /// Puts another copy of each equal path in its place.
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
