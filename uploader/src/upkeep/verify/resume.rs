//! What an interrupted verification has read already.
//!
//! One file for each bucket and each part of its NARs: the time at which it was begun, then an entry for each NAR. It may be
//! lost at any time. It counts for a week.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::base::hex::hex;
use crate::upkeep::inventory::{Catalog, NarId};

/// The age in seconds from which the file does not count.
const OLD: u64 = 7 * 24 * 3600;
/// The length of an entry in bytes.
const ENTRY: usize = 16;

/// The NARs that were found sound, by their keys, sizes and entity tags, and by what narinfos say of them.
#[derive(Debug)]
pub struct Resume {
    path: PathBuf,
    sound: HashSet<[u8; ENTRY]>,
    file: Option<File>,
    /// A sum over what the narinfos say that name each NAR.
    claims: HashMap<NarId, u128>,
}

impl Resume {
    /// The record in the directory `cache` for the bucket at this address and the part with this name. `now` is the time in
    /// seconds since 1970. A file that cannot be read or written is no error.
    pub fn open(cache: &Path, address: &str, part: &str, catalog: &Catalog, now: u64) -> Self {
        let name = Sha256::digest(format!("{address}\n{part}"));
        let name = hex(&name[..8]);
        let path = cache.join(format!("verified-{name}"));
        let bytes = fs::read(&path).unwrap_or_default();
        let is_young = |begun: u64| now.abs_diff(begun) < OLD;
        let entries = bytes.split_first_chunk().filter(|(begun, _)| is_young(u64::from_le_bytes(**begun)));
        let sound: HashSet<_> = entries
            .map(|(_, entries)| {
                entries.chunks_exact(ENTRY).filter_map(|entry| entry.try_into().ok()).collect()
            })
            .unwrap_or_default();
        let is_current = entries.is_some();
        let _ = fs::create_dir_all(cache);
        let mut options = OpenOptions::new();
        options.create(true).write(true).mode(0o600).truncate(!is_current).append(is_current);
        let mut file = options.open(&path).ok();
        if let Some(file) = file.as_mut().filter(|_| !is_current) {
            let _ = file.write_all(&now.to_le_bytes());
        }
        Self { path, sound, file, claims: claims(catalog) }
    }

    /// Whether this very object was found sound.
    pub fn has(&self, catalog: &Catalog, nar: NarId) -> bool {
        self.entry(catalog, nar).is_some_and(|entry| self.sound.contains(&entry))
    }

    /// Records that an object was found sound.
    pub fn add(&mut self, catalog: &Catalog, nar: NarId) {
        if let Some(entry) = self.entry(catalog, nar)
            && let Some(file) = &mut self.file
        {
            let _ = file.write_all(&entry);
        }
    }

    /// Ends the record: everything was read.
    pub fn finish(self) {
        let _ = fs::remove_file(self.path);
    }

    /// The entry of an object; `None` for an object without an entity tag, which may change unseen.
    fn entry(&self, catalog: &Catalog, nar: NarId) -> Option<[u8; ENTRY]> {
        let (key, object) = catalog.nar_object(nar);
        let tag = object.tag?;
        let hash = Sha256::new()
            .chain_update(tag.0)
            .chain_update(object.size.to_le_bytes())
            .chain_update(self.claims.get(&nar).copied().unwrap_or_default().to_le_bytes())
            .chain_update(key)
            .finalize();
        Some(first(&hash))
    }
}

/// What narinfos say of each NAR, as a sum that does not depend on their order.
fn claims(catalog: &Catalog) -> HashMap<NarId, u128> {
    let mut claims: HashMap<NarId, u128> = HashMap::new();
    for id in catalog.ids() {
        let (Some(nar), Some(named)) = (catalog.nar(id), catalog.named_nar(id)) else { continue };
        let hash = Sha256::new()
            .chain_update(named.nar_hash)
            .chain_update(named.file_hash.unwrap_or_default())
            .chain_update(named.nar_size.to_le_bytes())
            .chain_update(named.label)
            .finalize();
        let sum = claims.entry(nar).or_default();
        *sum = sum.wrapping_add(u128::from_le_bytes(first(&hash)));
    }
    claims
}

fn first(hash: &[u8]) -> [u8; ENTRY] {
    std::array::from_fn(|place| hash[place])
}
