//! What the store knows about one of its paths.

use std::collections::BTreeSet;

use nix_derivation::{StorePath, nixbase32};

/// What the store knows about one of its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// The derivation that it was built from, if that is known.
    pub deriver: Option<StorePath>,
    /// SHA-256 of its NAR.
    pub nar_hash: [u8; 32],
    /// The length of its NAR.
    pub nar_size: u64,
    /// What it refers to; itself among them if it does.
    pub references: BTreeSet<StorePath>,
    /// When it became valid, in seconds since 1970.
    pub registration_time: u64,
    /// Whether it was built here, as far as the store knows.
    pub ultimate: bool,
    /// Its signatures, as given.
    pub signatures: Vec<String>,
    /// Its content address, as given.
    pub ca: Option<String>,
}

impl PathInfo {
    /// The NAR's hash in nix-base32, without `sha256:`.
    pub fn nar_hash_nix32(&self) -> String {
        nixbase32::encode(&self.nar_hash)
    }

    /// What it refers to, save itself.
    pub fn dependencies(&self) -> impl Iterator<Item = &StorePath> {
        self.references.iter().filter(|reference| **reference != self.path)
    }
}
