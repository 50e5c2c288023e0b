//! The two objects that a cache needs besides its paths: `nix-cache-info`, and the marker of the bucket's format.

use super::fault::{Fault, Kind};
use crate::base::error::Result;
use crate::bucket::Bucket;
use crate::format::cache_info::CacheInfo;
use crate::format::marker::Format;
use crate::format::object_keys::{CACHE_INFO, FORMAT};

/// What the two objects say.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The store directory of the cache; `None` if `nix-cache-info` does not tell it.
    pub store_dir: Option<String>,
    /// The faults of the two objects.
    pub faults: Vec<Fault>,
}

/// Reads `nix-cache-info` and the marker.
///
/// # Errors
/// When the bucket fails.
pub async fn read_frame(bucket: &dyn Bucket) -> Result<Frame> {
    let (info, marker) = futures::future::try_join(bucket.get(CACHE_INFO), bucket.get(FORMAT)).await?;
    let mut frame = Frame::default();
    match info.map(|object| CacheInfo::parse(&String::from_utf8_lossy(&object.body))) {
        None => frame.faults.push(Fault::new(Kind::CacheInfo, CACHE_INFO, "the bucket has none")),
        Some(Err(reason)) => frame.faults.push(Fault::new(Kind::CacheInfo, CACHE_INFO, reason)),
        Some(Ok(info)) => frame.store_dir = Some(info.store_dir),
    }
    match marker.map(|object| (Format::check(&object.body), Format::other_version(&object.body))) {
        None => frame.faults.push(Fault::new(Kind::Marker, FORMAT, "the bucket has none")),
        Some((Err(reason), Some(_))) => frame.faults.push(Fault::new(Kind::OtherFormat, FORMAT, reason)),
        Some((Err(reason), None)) => frame.faults.push(Fault::new(Kind::Marker, FORMAT, reason)),
        Some((Ok(_), _)) => {}
    }
    Ok(frame)
}
