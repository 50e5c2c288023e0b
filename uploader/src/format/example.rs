//! A path that tests describe in narinfos.

use nix_derivation::StorePath;

use super::path_info::PathInfo;

/// The path.
pub(super) const A: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186-a";
/// Another path.
pub(super) const B: &str = "1c5b8vw40dy178xlpddw65q9gf1h2186-b";

/// The store path with this base name.
pub(super) fn path(base: &str) -> StorePath {
    StorePath::from_basename(base.as_bytes()).unwrap()
}

/// The path info of [`A`] with these references.
pub(super) fn info(references: &[&str]) -> PathInfo {
    PathInfo {
        path: path(A).into(),
        deriver: Some(path("2c5b8vw40dy178xlpddw65q9gf1h2186-a.drv")),
        nar_hash: [3; 32],
        nar_size: 120,
        references: references.iter().map(|base| path(base)).collect(),
        registration_time: 0,
        ultimate: true,
        signatures: Box::default(),
        ca: None,
    }
}
