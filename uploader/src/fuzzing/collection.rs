//! The objects by which writers and collectors share a bucket.

use crate::format::collection::{Header, List, Saved, decode_paths, encode_paths};
use crate::format::marker::Lease;
use crate::format::named_paths::NamedPaths;
use crate::format::need::Need;
use crate::format::orphans;
use crate::format::pin::Pin;

/// Lists, rescues, saved narinfos, records, pins and leases: what is read is read again from what larder writes of it.
pub(super) fn collection(bytes: &[u8]) {
    let _ = Header::parse(bytes);
    // The header of the list that larder would write has the right numbers.
    let text = String::from_utf8_lossy(bytes);
    let count = |letter: &str| text.lines().filter(|line| line.starts_with(letter)).count();
    let header = Header { removal: false, pieces: 1, paths: count("p "), objects: count("n ") };
    if let Ok(list) = List::decode(&header, &[bytes]) {
        let (header, pieces) = list.encode(true);
        let header = Header::parse(&header).unwrap_or_default();
        let again = List::decode(&header, &pieces);
        // Only a level without paths at the end may be left out.
        assert!(again.is_ok_and(|again| again.paths() == list.paths() && again.objects == list.objects));
    }
    if let Ok(paths) = decode_paths(bytes) {
        assert_eq!(decode_paths(&encode_paths(&paths)), Ok(paths));
    }
    if let Ok(narinfos) = Saved::decode(bytes) {
        let mut saved = Saved::default();
        narinfos.iter().for_each(|(digest, narinfo)| saved.add(digest, narinfo));
        assert_eq!(Saved::decode(&saved.rest().unwrap_or_default()), Ok(narinfos));
    }
    if let Ok(keys) = orphans::decode(bytes) {
        let records = orphans::encode(keys.iter().map(String::as_str));
        let again: Vec<_> =
            records.iter().flat_map(|record| orphans::decode(record).unwrap_or_default()).collect();
        assert!(again.len() <= keys.len() || keys.iter().any(|key| key.contains('\r')));
    }
    if let Ok(need) = Need::parse(bytes) {
        assert_eq!(Need::parse(&need.to_json()), Ok(need));
    }
    if let Ok(pin) = Pin::parse(bytes) {
        assert_eq!(Pin::parse(&pin.to_json()), Ok(pin));
    }
    if let Ok(lease) = serde_json::from_slice::<Lease>(bytes) {
        assert_eq!(serde_json::from_str::<Lease>(&lease.to_json()).ok(), Some(lease));
    }
    if let Some(named) = NamedPaths::read(bytes) {
        assert!(!named.references.contains(&named.path));
    }
}
