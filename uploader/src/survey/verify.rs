//! Verifies a NAR object that this session did not write: the object is downloaded, decompressed and hashed, before a
//! narinfo of this session names it, and before larder signs a narinfo that names it.

use std::collections::HashSet;
use std::sync::Mutex;

use tokio::sync::Semaphore;

use super::decode::OWN_WINDOW;
use super::nar_reader::{NarSource, read_nar};
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::bucket::Bucket;
use crate::format::narinfo::NarObject;
use crate::format::path_info::{PathInfo, is_small};

/// The number of small NARs that are verified at the same time. A large NAR takes [`LARGE_SHARE`] of these places, which
/// bounds the memory of the decoders.
const PLACES: usize = 16;
/// The number of places that a large NAR takes.
const LARGE_SHARE: u32 = 8;

/// Verifies the NARs that a session relies on, each once.
#[derive(Debug)]
pub struct Verifier {
    /// Whether the contents of NARs are believed.
    trusts: bool,
    /// The keys of the objects that were found sound.
    sound: Mutex<HashSet<String>>,
    places: Semaphore,
}

impl Verifier {
    /// A verifier, which believes every NAR if it `trusts` the bucket.
    pub fn new(trusts: bool) -> Self {
        Self { trusts, sound: Mutex::default(), places: Semaphore::new(PLACES) }
    }

    /// Whether an object with this key needs no check (any more).
    pub fn believes(&self, key: &str) -> bool {
        self.trusts || lock(&self.sound).contains(key)
    }

    /// Checks that an object whose key and size say that it is the NAR of the path really is that NAR. Returns the object,
    /// with its hash if it was read now, or `None` if it is another NAR.
    ///
    /// # Errors
    /// When the object cannot be downloaded.
    pub async fn check(
        &self,
        bucket: &dyn Bucket,
        info: &PathInfo,
        object: NarObject,
    ) -> Result<Option<NarObject>> {
        if self.believes(&object.key) {
            return Ok(Some(object));
        }
        let share = if is_small(info.nar_size) { 1 } else { LARGE_SHARE };
        let place = self.places.acquire_many(share).await;
        let _place = place.map_err(|_| Error::permanent(Area::General, "the push is over"))?;
        let verified = verify(bucket, info, object).await?;
        lock(&self.sound).extend(verified.iter().map(|object| object.key.clone()));
        Ok(verified)
    }
}

/// Reads an object whose key and size say that it is the NAR of the path. Returns the object with its hash, or `None` if
/// it is not that NAR.
///
/// # Errors
/// When the object cannot be downloaded.
async fn verify(bucket: &dyn Bucket, info: &PathInfo, object: NarObject) -> Result<Option<NarObject>> {
    let source = NarSource {
        key: object.key.clone(),
        size: object.file_size.unwrap_or_default(),
        label: object.compression.name(),
        zstd_window: OWN_WINDOW,
        nar_size: info.nar_size,
    };
    let Ok(read) = read_nar(bucket, &source, None, |_| Ok(())).await? else { return Ok(None) };
    let is_it = read.nar_hash == info.nar_hash && read.nar_size == info.nar_size;
    Ok(is_it.then_some(NarObject { file_hash: Some(read.file_hash), ..object }))
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
