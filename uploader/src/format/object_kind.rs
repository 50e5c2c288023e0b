//! The kind of an object, from its key.

use super::object_keys::{self, CACHE_INFO, FORMAT, LOGS, NARS, RESERVATIONS, WRITERS};

/// The prefix of the keys of larder's own objects.
pub const OWN: &str = "larder/";
/// The prefix of the keys of indexes of debug information.
pub const DEBUG_INFO: &str = "debuginfo/";
/// The prefixes of the keys of realisations of content-addressed derivations: up to Nix 2.34, and from 2.35.
pub const REALISATIONS: [&str; 2] = ["realisations/", "build-trace-v2/"];
const LISTING_SUFFIX: &str = ".ls";

/// The kind of an object in a binary cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind<'k> {
    /// `nix-cache-info`.
    CacheInfo,
    /// The narinfo of the path with this hash part.
    Narinfo(&'k str),
    /// The listing of the NAR of the path with this hash part.
    Listing(&'k str),
    /// An object below `nar/`. Only a narinfo that names it tells what it holds. Other tools put NARs elsewhere, too.
    Nar,
    /// The build log of the derivation with this name (`<hash>-<name>.drv`).
    Log(&'k str),
    /// An index of debug information.
    DebugInfo,
    /// A realisation of a content-addressed derivation.
    Realisation,
    /// The marker of the bucket's format.
    Marker,
    /// Another object of larder; the rest of the key after `larder/`.
    Own(&'k str),
    /// An object that larder does not know. larder never deletes it.
    Unknown,
}

impl<'k> ObjectKind<'k> {
    /// The kind of the object with this key.
    pub fn of(key: &'k str) -> Self {
        if let Some(hash) = object_keys::narinfo_hash(key) {
            return Self::Narinfo(hash);
        }
        let starts = |prefix: &str| key.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        if key == CACHE_INFO {
            Self::CacheInfo
        } else if key == FORMAT {
            Self::Marker
        } else if let Some(rest) = starts(OWN) {
            Self::Own(rest)
        } else if starts(NARS).is_some() {
            Self::Nar
        } else if let Some(derivation) = starts(LOGS) {
            Self::Log(derivation)
        } else if starts(DEBUG_INFO).is_some() {
            Self::DebugInfo
        } else if REALISATIONS.iter().any(|prefix| starts(prefix).is_some()) {
            Self::Realisation
        } else {
            match key.strip_suffix(LISTING_SUFFIX) {
                Some(hash) if hash.len() == object_keys::HASH_PART && !hash.contains('/') => {
                    Self::Listing(hash)
                }
                _ => Self::Unknown,
            }
        }
    }

    /// Whether the object belongs to a session that runs or has run: a lease, a probe, or a reservation.
    pub fn is_of_a_session(key: &str) -> bool {
        key.starts_with(WRITERS) || key.starts_with(RESERVATIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_kind() {
        const HASH: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186";
        for (key, kind) in [
            ("nix-cache-info", ObjectKind::CacheInfo),
            ("0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo", ObjectKind::Narinfo(HASH)),
            ("0c5b8vw40dy178xlpddw65q9gf1h2186.ls", ObjectKind::Listing(HASH)),
            ("nar/x.nar.xz", ObjectKind::Nar),
            ("nar/", ObjectKind::Unknown),
            ("log/x.drv", ObjectKind::Log("x.drv")),
            ("debuginfo/0a", ObjectKind::DebugInfo),
            ("realisations/x.doi", ObjectKind::Realisation),
            ("build-trace-v2/x", ObjectKind::Realisation),
            ("larder/format.json", ObjectKind::Marker),
            ("larder/writers/x.json", ObjectKind::Own("writers/x.json")),
            ("x/0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo", ObjectKind::Unknown),
            ("index.html", ObjectKind::Unknown),
        ] {
            assert_eq!(ObjectKind::of(key), kind, "{key}");
        }
    }
}
