//! What an interrupted verification has read already.
//!
//! One file for each bucket and each part of its NARs. It may be lost at any time. It counts for a week.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::upkeep::inventory::{Catalog, NarId};

/// The age from which the file does not count.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// The length of an entry in bytes.
const ENTRY: usize = 16;

/// The NARs that were found sound, by their keys, sizes and entity tags.
#[derive(Debug)]
pub struct Resume {
    path: PathBuf,
    sound: HashSet<[u8; ENTRY]>,
    file: Option<File>,
}

impl Resume {
    /// The record in the directory `cache` for the bucket at this address and the part with this name. A file that cannot be
    /// read or written is no error.
    pub fn open(cache: &Path, address: &str, part: &str) -> Self {
        let name = Sha256::digest(format!("{address}\n{part}"));
        let name: String = name[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = cache.join(format!("verified-{name}"));
        let is_young = |modified: SystemTime| modified.elapsed().is_ok_and(|age| age < OLD);
        let is_current = fs::metadata(&path).and_then(|meta| meta.modified()).is_ok_and(is_young);
        let bytes = if is_current { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        let sound = bytes.chunks_exact(ENTRY).filter_map(|entry| entry.try_into().ok()).collect();
        let _ = fs::create_dir_all(cache);
        let mut options = OpenOptions::new();
        options.create(true).write(true).mode(0o600).truncate(!is_current).append(is_current);
        let file = options.open(&path).ok();
        Self { path, sound, file }
    }

    /// Whether this very object was found sound.
    pub fn has(&self, catalog: &Catalog, nar: NarId) -> bool {
        entry(catalog, nar).is_some_and(|entry| self.sound.contains(&entry))
    }

    /// Records that an object was found sound.
    pub fn add(&mut self, catalog: &Catalog, nar: NarId) {
        if let (Some(entry), Some(file)) = (entry(catalog, nar), &mut self.file) {
            let _ = file.write_all(&entry);
        }
    }

    /// Ends the record: everything was read.
    pub fn finish(self) {
        let _ = fs::remove_file(self.path);
    }
}

/// The entry of an object; `None` for an object without an entity tag, which may change unseen.
fn entry(catalog: &Catalog, nar: NarId) -> Option<[u8; ENTRY]> {
    let (key, object) = catalog.nar_object(nar);
    let tag = object.tag?;
    let hash = Sha256::new()
        .chain_update(tag.0)
        .chain_update(object.size.to_le_bytes())
        .chain_update(key)
        .finalize();
    Some(std::array::from_fn(|place| hash[place]))
}
