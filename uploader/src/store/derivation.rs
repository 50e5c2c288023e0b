//! Reads derivations from their files in the store.

use std::fs::File;
use std::io::Read;

use nix_derivation::{Derivation, Output};

use super::location::StoreLocation;
use crate::base::file::MAX_SMALL;
use crate::format::path_info::PathInfo;

/// Whether a path is an output of a floating content-addressed derivation: a derivation that fixes how an output is
/// hashed, and not the hash. `false` if the store does not have the deriver any more. Blocks.
pub fn is_floating(location: &StoreLocation, info: &PathInfo) -> bool {
    // Without a content address, the path is no such output, and its deriver need not be read.
    let Some(deriver) = info.deriver.as_ref().filter(|_| info.ca.is_some()) else { return false };
    let mut text = Vec::new();
    let read =
        File::open(location.real_path(deriver)).and_then(|file| file.take(MAX_SMALL).read_to_end(&mut text));
    let name = deriver.name().trim_end_matches(".drv");
    let parsed = Derivation::from_aterm_bytes_in(&text, name, location.store_dir.clone());
    let is_floating = |output: &Output| matches!(output, Output::Floating { .. });
    read.is_ok() && parsed.is_ok_and(|derivation| derivation.outputs().values().any(is_floating))
}
