//! The keys of the objects in a bucket. `docs/bucket.md` describes the layout.
//!
//! An object key is the name of an object, not a signing key.

use nix_derivation::nixbase32;
use nix_derivation::store_path::StorePath;
use rand_core::{OsRng, RngCore};

/// The object that a client reads first.
pub const CACHE_INFO: &str = "nix-cache-info";
/// The prefix of the keys of NARs.
pub const NARS: &str = "nar/";
/// The prefix of the keys of build logs.
pub const LOGS: &str = "log/";
/// The marker, which tells writers the format of the bucket.
pub const FORMAT: &str = "larder/format.json";
/// The prefix of the keys of leases. Every running writer has a lease.
pub const WRITERS: &str = "larder/writers/";
/// The prefix of the keys of the objects that `larder init` writes to test a bucket, and deletes.
pub const PROBES: &str = "larder/writers/probe-";
/// The prefix of the keys of reservations. A writer reserves a large NAR while it sends the NAR.
pub const RESERVATIONS: &str = "larder/reservations/";

const NARINFO_SUFFIX: &str = ".narinfo";
/// The number of random bytes in the key of a NAR, besides the beginning of the writer's id.
const NONCE_BYTES: usize = 5;
/// The number of random bytes in a writer's id.
const WRITER_BYTES: usize = 15;
/// The length of the beginning of the writer's id that stands in the keys of its NARs.
const WRITER: usize = 8;
const LEASE_SUFFIX: &str = ".json";
/// The length of the unique part of a NAR's key: the beginning of the writer's id, and random characters.
pub const NONCE: usize = 16;
/// The length of the hash part of a store path.
pub const HASH_PART: usize = 32;
/// The key of a narinfo that no bucket has. A request for it shows how a server answers for a missing path.
pub const MISSING: &str = "00000000000000000000000000000000.narinfo";

/// The compression of a NAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// zstd.
    Zstd,
    /// xz.
    Xz,
    /// No compression.
    None,
}

impl Compression {
    /// All compressions.
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

/// The key of the reservation of the NAR with this SHA-256.
pub fn reservation(nar_hash: &[u8; 32]) -> String {
    format!("{RESERVATIONS}{}", nixbase32::encode(nar_hash))
}

/// The key of the narinfo of a path.
pub fn narinfo(path: &StorePath) -> String {
    format!("{}{NARINFO_SUFFIX}", hash_part(path))
}

/// The key of the narinfo of the path with this hash part, decoded.
pub fn narinfo_of(digest: &[u8; 20]) -> String {
    format!("{}{NARINFO_SUFFIX}", nixbase32::encode(digest))
}

/// The hash part of the path whose narinfo has this key; `None` for the key of any other object.
pub fn narinfo_hash(key: &str) -> Option<&str> {
    key.strip_suffix(NARINFO_SUFFIX).filter(|hash| hash.len() == 32 && !hash.contains('/'))
}

/// The key of the listing of a path's NAR.
pub fn listing(path: &StorePath) -> String {
    format!("{}.ls", hash_part(path))
}

/// The key of the build log of a derivation.
pub fn log(derivation: &StorePath) -> String {
    format!("{LOGS}{}", derivation.to_basename())
}

/// The prefix of the keys of all NARs with this SHA-256.
pub fn nar_prefix(nar_hash: &[u8; 32]) -> String {
    format!("{NARS}{}-", nixbase32::encode(nar_hash))
}

/// The length of the key of a NAR with this compression.
pub fn nar_length(compression: Compression) -> usize {
    nar_prefix(&[0; 32]).len() + NONCE + compression.suffix().len()
}

/// Makes a key for the upload of a NAR by the writer with this id. No other upload has the same key.
pub fn new_nar(nar_hash: &[u8; 32], compression: Compression, id: &str) -> String {
    nar(nar_hash, &format!("{}{}", writer(id), random::<NONCE_BYTES>()), compression)
}

/// The key of the NAR with this unique part.
pub fn nar(nar_hash: &[u8; 32], nonce: &str, compression: Compression) -> String {
    format!("{}{nonce}{}", nar_prefix(nar_hash), compression.suffix())
}

/// Makes a writer's id. No other writer has the same id.
pub fn new_writer() -> String {
    random::<WRITER_BYTES>()
}

/// The part of a writer's id that stands in the keys of its NARs.
pub fn writer(id: &str) -> &str {
    id.get(..WRITER).unwrap_or(id)
}

/// The part of the writer's id that stands in the key of a NAR; `None` for keys that larder does not make.
pub fn nar_writer(key: &str) -> Option<&str> {
    nar_nonce(key)?.get(..WRITER)
}

/// The unique part of the key of a NAR; `None` for keys that larder does not make.
pub fn nar_nonce(key: &str) -> Option<&str> {
    parse_nar(key)?;
    key.split_once('-')?.1.get(..NONCE)
}

/// The key of a writer's lease.
pub fn lease(id: &str) -> String {
    format!("{WRITERS}{id}{LEASE_SUFFIX}")
}

/// The prefix of the keys of the leases of all writers whose ids begin as `id` does, as far as keys of NARs tell the id.
/// `None` if `id` is too short.
pub fn leases_of(id: &str) -> Option<String> {
    let known = writer(id);
    let is_whole = known.len() == WRITER && known.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_whole.then(|| format!("{WRITERS}{known}"))
}

/// The id of the writer whose lease has this key; `None` for the key of any other object.
pub fn lease_id(key: &str) -> Option<&str> {
    let id = key.strip_prefix(WRITERS)?.strip_suffix(LEASE_SUFFIX)?;
    (id.len() == nixbase32::encoded_len(WRITER_BYTES)).then_some(id)
}

fn random<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    OsRng.fill_bytes(&mut bytes);
    nixbase32::encode(&bytes)
}

/// The NAR hash and the compression in the key of a NAR; `None` for keys that larder does not make.
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
    fn nar_keys_hold_hash_compression_and_writer_and_are_unique() {
        for compression in Compression::ALL {
            let id = new_writer();
            let (one, other) = (new_nar(&[7; 32], compression, &id), new_nar(&[7; 32], compression, &id));
            assert_ne!(one, other);
            assert!(one.starts_with(&nar_prefix(&[7; 32])));
            assert_eq!(one.len(), nar_length(compression));
            assert_eq!(parse_nar(&one), Some(([7; 32], compression)));
            assert_eq!(nar_writer(&one), Some(writer(&id)));
            assert_eq!(lease_id(&lease(&id)), Some(&*id));
            assert!(lease(&id).starts_with(&leases_of(nar_writer(&one).unwrap()).unwrap()));
        }
    }

    #[test]
    fn object_keys_of_other_tools_are_not_ours() {
        for key in [
            "nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz",
            "nar/",
            "x",
            "nar/a-b.nar.zst",
        ] {
            assert_eq!((parse_nar(key), nar_writer(key)), (None, None), "{key}");
        }
        assert_eq!(lease_id("larder/writers/probe-x.json"), None);
        assert_eq!((leases_of(""), leases_of("0123456"), leases_of("../../..")), (None, None, None));
        assert_eq!(narinfo_hash("nar/0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo"), None);
        assert!(narinfo_hash("0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo").is_some());
    }
}
