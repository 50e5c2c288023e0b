//! The objects of a bucket, signing keys, and NARs.

use std::io::Write;
use std::sync::LazyLock;

use nix_derivation::{StoreDir, StorePath};

use crate::format::cache_info::CacheInfo;
use crate::format::listing::ListingWriter;
use crate::format::marker::Format;
use crate::format::object_keys::{narinfo_hash, parse_nar};
use crate::format::path_info::PathInfo;
use crate::format::public_key::public_keys;
use crate::format::signature::SecretKey;
use crate::format::standing::{Judge, Standing};

/// The path that every narinfo is compared with.
const PATH: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186-a";
/// A signing key only for these tests: a seed of 32 bytes with the value 1, and its public key.
static KEY: LazyLock<SecretKey> = LazyLock::new(|| {
    let text = "k-1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQGKiOPddAn3SjQK8WHZ+i7ZxpAQzFRgRqQKzfz6J3fE8w==";
    SecretKey::parse(text).unwrap_or_else(|_| SecretKey::generate("k-1").expect("a key"))
});

fn info() -> PathInfo {
    let path = StorePath::from_basename(PATH.as_bytes()).expect("a store path");
    PathInfo {
        references: [path.clone()].into_iter().collect(),
        path: path.into(),
        deriver: None,
        nar_hash: [3; 32],
        nar_size: 120,
        registration_time: 0,
        ultimate: true,
        signatures: Box::default(),
        ca: None,
    }
}

/// A narinfo in the bucket: after the missing signatures are added, it is complete. Nobody's signature is lost.
pub(super) fn narinfo(bytes: &[u8]) {
    let (dir, info, keys) = (StoreDir::default(), info(), std::slice::from_ref(&*KEY));
    let judge = Judge { store_dir: &dir, keys, trusted: &[KEY.public()] };
    if let Standing::Same { nar, rewritten: Some(signed), signers, .. } = judge.standing(&info, bytes) {
        let Standing::Same { nar: after, accepted: true, rewritten: None, signers: both } =
            judge.standing(&info, &signed)
        else {
            panic!("{}", String::from_utf8_lossy(&signed));
        };
        assert_eq!(nar, after);
        assert!(signers.iter().all(|signer| both.contains(signer)));
        assert!(judge.alone(&info.path, &signed).is_ok());
    }
}

/// `nix-cache-info`: parsing the written text gives the same value.
pub(super) fn cache_info(bytes: &[u8]) {
    if let Ok(info) = CacheInfo::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(CacheInfo::parse(&info.to_text()).as_ref(), Ok(&info), "{}", info.to_text());
    }
}

/// `larder/format.json`: parsing the written text gives the same value.
pub(super) fn marker(bytes: &[u8]) {
    if let Ok(format) = Format::check(bytes) {
        assert_eq!(Format::check(format.to_json().as_bytes()).as_ref(), Ok(&format));
    }
}

/// Secret keys, lists of public keys, and object keys.
pub(super) fn signing_and_object_keys(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(key) = SecretKey::parse(&text) {
        let public = key.public_text();
        assert!(public_keys([public.as_str()]).is_ok(), "{public}");
        // larder prints public keys, so they must not contain the secret key.
        assert!(!public.contains(text.trim()));
    }
    let _ = public_keys(text.lines());
    if let Some((hash, _)) = parse_nar(&text) {
        assert!(text.starts_with(&crate::format::object_keys::nar_prefix(&hash)));
    }
    let _ = narinfo_hash(&text);
}

/// A NAR: its listing is JSON and does not depend on the sizes of the pieces.
pub(super) fn listing(bytes: &[u8]) {
    let list = |cut: usize| {
        let mut listing = ListingWriter::with_limit(1 << 20);
        for piece in bytes.chunks(cut) {
            listing.write_all(piece).ok()?;
        }
        listing.finish().ok()
    };
    let whole = list(bytes.len().max(1));
    assert_eq!(whole, list(1 + bytes.len() / 7));
    if let Some(text) = whole {
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    }
}
