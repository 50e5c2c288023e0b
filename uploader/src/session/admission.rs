//! Whether a writer may use a bucket: the format marker and `nix-cache-info` decide.

use crate::base::error::{Area, Error, Result};
use crate::bucket::Bucket;
use crate::format::cache_info::CacheInfo;
use crate::format::marker::Format;
use crate::format::object_keys;

/// Checks that a bucket is prepared, and that it is for the store directory `store_dir`. Returns its format.
///
/// # Errors
/// A permanent error when the bucket is refused; the error of the bucket when it cannot be read.
pub async fn admit(bucket: &dyn Bucket, store_dir: &str) -> Result<Format> {
    let (format, info) =
        futures::future::join(check_format(bucket), check_cache_info(bucket, store_dir)).await;
    // For a bucket that is not ready, the error about the format says more.
    let format = format?;
    info.map(|()| format)
}

/// Refuses a bucket that has no format marker, or a marker of another format.
///
/// # Errors
/// A permanent error when the bucket is refused; the error of the bucket when it cannot be read.
pub(super) async fn check_format(bucket: &dyn Bucket) -> Result<Format> {
    let unfit = || Error::permanent(Area::Bucket, format!("cannot push to `{}`", bucket.address()));
    match bucket.get(object_keys::FORMAT).await? {
        None => Err(unfit()
            .because(format!("it is not prepared: it has no `{}`", object_keys::FORMAT))
            .hint("`larder init` prepares it, and keeps its objects")),
        Some(marker) => Format::check(&marker.body).map_err(|reason| {
            unfit().because(reason).hint("push with the newest version of larder that your machines use")
        }),
    }
}

/// Refuses a bucket for another store directory than `store_dir`: no client of this store would use it.
///
/// # Errors
/// A permanent error when the bucket is refused; the error of the bucket when it cannot be read.
async fn check_cache_info(bucket: &dyn Bucket, store_dir: &str) -> Result<()> {
    let unfit = || Error::permanent(Area::Bucket, format!("cannot push to `{}`", bucket.address()));
    let Some(object) = bucket.get(object_keys::CACHE_INFO).await? else {
        return Err(unfit().because("it has no `nix-cache-info`").hint("`larder init` writes one"));
    };
    let info = CacheInfo::parse(&String::from_utf8_lossy(&object.body))
        .map_err(|reason| unfit().because(format!("its `nix-cache-info` is malformed: {reason}")))?;
    if info.store_dir == store_dir {
        return Ok(());
    }
    Err(unfit()
        .because(format!("it is for the store directory `{}`, this store is `{store_dir}`", info.store_dir))
        .hint("a bucket or prefix holds the paths of one store directory: push to another bucket or prefix"))
}
