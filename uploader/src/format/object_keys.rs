//! The keys of the objects in a bucket. The layout is described in `ARCHITECTURE.md`.

use nix_derivation::nixbase32;
use nix_derivation::store_path::StorePath;
use rand_core::{OsRng, RngCore};

/// What every client reads first.
pub const CACHE_INFO: &str = "nix-cache-info";
/// Where NARs are.
pub const NARS: &str = "nar/";
/// The marker that tells writers which format the bucket has.
pub const FORMAT: &str = "larder/format.json";
/// Where the leases of running writers are.
pub const WRITERS: &str = "larder/writers/";
/// Where writers tell which large NARs they are sending.
pub const RESERVATIONS: &str = "larder/reservations/";

const NARINFO_SUFFIX: &str = ".narinfo";
/// The random bytes of a NAR's key, beside the name of its writer.
const NONCE_BYTES: usize = 5;
/// The random bytes of a writer's id.
const WRITER_BYTES: usize = 15;
/// Length of the beginning of that id that is the name of the writer in the keys of its NARs.
const WRITER: usize = 8;
const LEASE_SUFFIX: &str = ".json";
/// Length of the part of a NAR's key that is used once.
const NONCE: usize = 16;
/// Length of the hash part of a store path.
pub const HASH_PART: usize = 32;
/// The key of a narinfo that no bucket has. A request for it shows how a server answers for a missing path.
pub const MISSING: &str = "00000000000000000000000000000000.narinfo";

/// How a NAR is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// zstd.
    Zstd,
    /// xz.
    Xz,
    /// Not at all.
    None,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Xz, Self::None];

    /// The word in a narinfo's `Compression` line and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::None => "none",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".nar.zst",
            Self::Xz => ".nar.xz",
            Self::None => ".nar",
        }
    }
}

/// The hash part of a store path, 32 characters.
pub fn hash_part(path: &StorePath) -> String {
    nixbase32::encode(path.digest())
}

/// Key of the reservation of the NAR with this SHA-256.
pub fn reservation(nar_hash: &[u8; 32]) -> String {
    format!("{RESERVATIONS}{}", nixbase32::encode(nar_hash))
}

/// Key of a path's narinfo.
pub fn narinfo(path: &StorePath) -> String {
    format!("{}{NARINFO_SUFFIX}", hash_part(path))
}

/// The hash part that a narinfo's key stands for; `None` for any other object.
pub fn narinfo_hash(key: &str) -> Option<&str> {
    key.strip_suffix(NARINFO_SUFFIX).filter(|hash| hash.len() == 32 && !hash.contains('/'))
}

/// Key of a path's listing.
pub fn listing(path: &StorePath) -> String {
    format!("{}.ls", hash_part(path))
}

/// The beginning of the keys of all NARs with this SHA-256.
pub fn nar_prefix(nar_hash: &[u8; 32]) -> String {
    format!("{NARS}{}-", nixbase32::encode(nar_hash))
}

/// Length of the keys of NARs that are compressed so.
pub fn nar_length(compression: Compression) -> usize {
    nar_prefix(&[0; 32]).len() + NONCE + compression.suffix().len()
}

/// A key for a NAR that no other upload has or will have. It tells that the writer with this id began it.
pub fn new_nar(nar_hash: &[u8; 32], compression: Compression, id: &str) -> String {
    let (prefix, suffix) = (nar_prefix(nar_hash), compression.suffix());
    format!("{prefix}{}{}{suffix}", writer(id), random::<NONCE_BYTES>())
}

/// An id for a writer that no other has or will have.
pub fn new_writer() -> String {
    random::<WRITER_BYTES>()
}

/// What the keys of its NARs tell of a writer's id.
pub fn writer(id: &str) -> &str {
    id.get(..WRITER).unwrap_or(id)
}

/// What the key of a NAR of ours tells of the id of its writer.
pub fn nar_writer(key: &str) -> Option<&str> {
    parse_nar(key)?;
    let (_, rest) = key.split_once('-')?;
    rest.get(..WRITER)
}

/// Key of a writer's lease.
pub fn lease(id: &str) -> String {
    format!("{WRITERS}{id}{LEASE_SUFFIX}")
}

/// The writer's id that a lease's key stands for; `None` for any other object.
pub fn lease_id(key: &str) -> Option<&str> {
    let id = key.strip_prefix(WRITERS)?.strip_suffix(LEASE_SUFFIX)?;
    (id.len() == nixbase32::encoded_len(WRITER_BYTES)).then_some(id)
}

fn random<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    OsRng.fill_bytes(&mut bytes);
    nixbase32::encode(&bytes)
}

/// The NAR hash and compression that a NAR's key of ours tells; `None` for keys of another make.
pub fn parse_nar(key: &str) -> Option<([u8; 32], Compression)> {
    let (hash, rest) = key.strip_prefix(NARS)?.split_once('-')?;
    let (nonce, suffix) = rest.split_at_checked(rest.find('.')?)?;
    let compression = Compression::ALL.into_iter().find(|compression| compression.suffix() == suffix)?;
    if nonce.len() != NONCE {
        return None;
    }
    Some((nixbase32::decode(hash.as_bytes()).ok()?.try_into().ok()?, compression))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nar_keys_tell_what_they_hold_and_are_never_the_same_twice() {
        for compression in Compression::ALL {
            let id = new_writer();
            let (one, other) = (new_nar(&[7; 32], compression, &id), new_nar(&[7; 32], compression, &id));
            assert_ne!(one, other);
            assert!(one.starts_with(&nar_prefix(&[7; 32])));
            assert_eq!(one.len(), nar_length(compression));
            assert_eq!(parse_nar(&one), Some(([7; 32], compression)));
            assert_eq!(nar_writer(&one), Some(writer(&id)));
            assert_eq!(lease_id(&lease(&id)), Some(&*id));
        }
    }

    #[test]
    fn keys_of_other_tools_are_not_ours() {
        for key in [
            "nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz",
            "nar/",
            "x",
            "nar/a-b.nar.zst",
        ] {
            assert_eq!((parse_nar(key), nar_writer(key)), (None, None), "{key}");
        }
        assert_eq!(lease_id("larder/writers/probe-x.json"), None);
        assert_eq!(narinfo_hash("nar/0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo"), None);
        assert!(narinfo_hash("0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo").is_some());
    }
}
