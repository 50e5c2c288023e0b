//! Finds NARs in a bucket by the hash of their contents.

use std::collections::HashSet;

use super::narinfos::FEW;
use super::prefix_scan::{PrefixScan, pages_worth};
use crate::base::clock::Moment;
use crate::base::error::Result;
use crate::bucket::{Bucket, Depth, ObjectMeta};
use crate::format::narinfo::NarObject;
use crate::format::object_keys;

/// The SHA-256 of a NAR.
pub(super) type NarHash = [u8; 32];

/// The NARs, written by larder, that a scan of the bucket has found.
#[derive(Debug)]
pub struct NarScan(PrefixScan<NarHash, NarObject>);

impl NarScan {
    /// Scans the bucket for NARs with the hashes `wanted`. For [`FEW`] or fewer hashes, a scan costs more than it
    /// saves, so the bucket is not scanned.
    ///
    /// # Errors
    /// When the bucket cannot be listed.
    pub async fn of(bucket: &dyn Bucket, wanted: &HashSet<NarHash>) -> Result<Self> {
        let mut scan = PrefixScan::new(object_keys::NARS, Depth::Flat);
        if wanted.len() > FEW {
            let read = |meta: ObjectMeta| nar_object(meta).filter(|(hash, _)| wanted.contains(hash));
            scan.run(bucket, pages_worth(wanted.len()), read).await?;
        }
        Ok(Self(scan))
    }

    /// An object with these contents, and the time at which the bucket listed it.
    pub fn get(&self, nar_hash: &NarHash) -> Option<(NarObject, Moment)> {
        self.0.found.get(nar_hash).map(|object| (object.clone(), self.0.at))
    }
}

/// Asks the bucket for an object with these contents. The result holds the object, and the time at which the bucket
/// listed it.
///
/// # Errors
/// When the bucket cannot be listed.
pub async fn find_nar(bucket: &dyn Bucket, nar_hash: &NarHash) -> Result<Option<(NarObject, Moment)>> {
    let at = Moment::now();
    let page = bucket.list(&object_keys::nar_prefix(nar_hash), None, Depth::Flat).await?;
    Ok(page.objects.into_iter().find_map(nar_object).map(|(_, object)| (object, at)))
}

/// Reads the key of a listed NAR. A listing has the size of the object, and not its hash.
fn nar_object(meta: ObjectMeta) -> Option<(NarHash, NarObject)> {
    let (hash, compression) = object_keys::parse_nar(&meta.key)?;
    Some((hash, NarObject { key: meta.key, compression, file_hash: None, file_size: Some(meta.size) }))
}
