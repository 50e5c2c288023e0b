//! The NARs in a bucket, found by the hash of their contents. larder's keys of NARs begin with this hash.

use std::sync::Arc;

use super::prefix_scan::{BackgroundScan, PrefixScan};
use crate::base::clock::Moment;
use crate::base::error::Result;
use crate::bucket::{Bucket, Depth, ObjectMeta};
use crate::format::named_nar::can_be_nar;
use crate::format::narinfo::NarObject;
use crate::format::object_keys::{self, Compression, NONCE};
use crate::format::path_info::PathInfo;

/// The SHA-256 of a NAR.
type NarHash = [u8; 32];

/// A NAR of larder in a listing. The order is that of the sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    size: u64,
    compression: Compression,
    /// The unique part of the key.
    nonce: [u8; NONCE],
}

type Scan = PrefixScan<NarHash, Listed>;
pub(super) type Background = BackgroundScan<NarHash, Listed>;

/// The NARs, written by larder, that a scan of the bucket has found. Of several NARs of one hash, the scan keeps the
/// largest.
#[derive(Debug)]
pub struct NarScan(Scan);

impl Default for NarScan {
    /// A scan that has found nothing.
    fn default() -> Self {
        Self(Scan::new(object_keys::NARS, Depth::Flat))
    }
}

impl NarScan {
    /// A scan of all NARs. It begins at once if a bucket and a number of paths are given.
    pub(super) fn in_background(now: Option<(&Arc<dyn Bucket>, usize)>) -> Background {
        let scan = Self::default().0;
        match now {
            Some((bucket, wanted)) => Background::begin(scan, listed, bucket, wanted),
            None => Background::later(scan, listed),
        }
    }

    /// What a scan has found.
    pub(super) fn of(scan: Scan) -> Self {
        Self(scan)
    }

    /// When the scan began.
    pub(super) fn at(&self) -> Moment {
        self.0.at
    }

    /// An object that can be the NAR of the path, and the time at which the bucket listed it.
    pub fn get(&self, info: &PathInfo) -> Option<(NarObject, Moment)> {
        let listed = self.0.found.get(&info.nar_hash)?;
        can_be_nar(listed.compression, info.nar_size, listed.size)
            .then(|| (listed.object(&info.nar_hash), self.0.at))
    }

    /// The size of the object with this key in bytes, if the scan knows it.
    pub(super) fn size_of(&self, key: &str) -> Option<u64> {
        let (hash, compression) = object_keys::parse_nar(key)?;
        let listed = self.0.found.get(&hash)?;
        let same =
            listed.compression == compression && object_keys::nar_nonce(key)?.as_bytes() == listed.nonce;
        same.then_some(listed.size)
    }
}

impl Listed {
    fn object(&self, hash: &NarHash) -> NarObject {
        let nonce = String::from_utf8_lossy(&self.nonce);
        NarObject {
            key: object_keys::nar(hash, &nonce, self.compression),
            compression: self.compression,
            file_hash: None,
            file_size: Some(self.size),
        }
    }
}

/// Asks the bucket for an object that can be the NAR of the path. The result holds the object, and the time at which the
/// bucket listed it.
///
/// # Errors
/// When the bucket cannot be listed.
pub async fn find_nar(bucket: &dyn Bucket, info: &PathInfo) -> Result<Option<(NarObject, Moment)>> {
    let at = Moment::now();
    let page = bucket.list(&object_keys::nar_prefix(&info.nar_hash), None, Depth::Flat).await?;
    let fitting = page.objects.into_iter().filter_map(listed).filter(|(hash, listed)| {
        *hash == info.nar_hash && can_be_nar(listed.compression, info.nar_size, listed.size)
    });
    Ok(fitting.max().map(|(hash, listed)| (listed.object(&hash), at)))
}

fn listed(meta: ObjectMeta) -> Option<(NarHash, Listed)> {
    let (hash, compression) = object_keys::parse_nar(&meta.key)?;
    let nonce = object_keys::nar_nonce(&meta.key)?.as_bytes().try_into().ok()?;
    Some((hash, Listed { size: meta.size, compression, nonce }))
}
