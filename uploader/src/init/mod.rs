//! Prepares a bucket: creates it, checks what the credentials may do, writes the objects that every cache has, and
//! opens the bucket to readers without credentials.
//!
//! Each step returns its finding as a value. A step that finds its work done changes nothing.

mod metadata;
mod rights;

pub use metadata::{CacheInfoState, Upgrade, upgrade_marker, write_cache_info, write_marker};
pub use rights::check_rights;

use crate::base::error::{Area, Error, Result};
use crate::bucket::{AnonymousRead, Bucket};

/// Creates the bucket if it does not exist and `create` allows it. Returns whether it was created.
///
/// Fails if the bucket does not exist and `create` is false.
pub async fn ensure_bucket(bucket: &dyn Bucket, create: bool) -> Result<bool> {
    if bucket.exists().await? {
        return Ok(false);
    }
    if !create {
        let text = format!("there is no bucket at `{}`", bucket.address());
        return Err(Error::permanent(Area::Bucket, text)
            .hint("check its name and endpoint, or let `larder init --create` create it"));
    }
    bucket.create().await?;
    Ok(true)
}

/// Lets everybody read the bucket. Returns the reason where larder cannot set that up.
///
/// A failure here is not an error: a writer need not have the right to change policies, and a reader's own request
/// shows whether the bucket is open.
pub async fn allow_anonymous_reading(bucket: &dyn Bucket) -> std::result::Result<(), String> {
    match bucket.allow_anonymous_read().await {
        Ok(AnonymousRead::Granted) => Ok(()),
        Ok(AnonymousRead::Unsupported(reason)) => Err(reason.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Key of a temporary object, which a step writes and deletes to test the bucket.
fn probe_key() -> String {
    format!("{}{:08x}", crate::format::object_keys::PROBES, std::process::id())
}
