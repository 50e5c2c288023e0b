//! Writes the objects that every cache has: `nix-cache-info`, and the marker of larder's format.

use super::probe_key;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Condition, ContentType, Put};
use crate::format::cache_info::CacheInfo;
use crate::format::marker::Format;
use crate::format::object_keys;

/// What [`write_cache_info`] has found or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheInfoState {
    /// The bucket has a `nix-cache-info` with this priority. It stays as it is.
    Found {
        /// The priority; clients ask a cache without a priority before all others.
        priority: Option<i64>,
    },
    /// This call has written it.
    Written,
    /// Another writer has written it during this call.
    WrittenByOther,
}

/// Writes `nix-cache-info` if the bucket has none.
///
/// Fails if the bucket has a `nix-cache-info` that is malformed or names another store directory.
pub async fn write_cache_info(bucket: &dyn Bucket, fresh: &CacheInfo) -> Result<CacheInfoState> {
    if let Some(object) = bucket.get(object_keys::CACHE_INFO).await? {
        let found = CacheInfo::parse(&String::from_utf8_lossy(&object.body)).map_err(|reason| {
            unusable(bucket, format!("its nix-cache-info is malformed: {reason}"))
                .hint("correct or delete that object")
        })?;
        if found.store_dir != fresh.store_dir {
            let cause = format!(
                "its nix-cache-info is for the store directory `{}`, this store is `{}`",
                found.store_dir, fresh.store_dir
            );
            return Err(unusable(bucket, cause)
                .hint("use another bucket, or a prefix for this store: s3://bucket/prefix"));
        }
        return Ok(CacheInfoState::Found { priority: found.priority });
    }
    let text = fresh.to_text().into();
    let put = bucket.put(object_keys::CACHE_INFO, text, ContentType::CacheInfo, Condition::IfAbsent).await?;
    Ok(if put == Put::Written { CacheInfoState::Written } else { CacheInfoState::WrittenByOther })
}

/// Writes the format's marker, with a note about conditional writes. Returns false if the bucket had a marker.
///
/// Fails if the bucket has the marker of a format that this version does not know.
pub async fn write_marker(bucket: &dyn Bucket) -> Result<bool> {
    if let Some(object) = bucket.get(object_keys::FORMAT).await? {
        Format::check(&object.body).map_err(|reason| unusable(bucket, reason))?;
        return Ok(false);
    }
    let marker = Format::current(has_conditional_writes(bucket).await?).to_json().into();
    bucket.put(object_keys::FORMAT, marker, ContentType::Json, Condition::IfAbsent).await?;
    Ok(true)
}

/// What [`upgrade_marker`] has found or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// The bucket had an older format.
    Done {
        /// The format before.
        from: u32,
        /// The format now.
        to: u32,
    },
    /// The bucket has this format, the newest.
    Newest(u32),
}

/// Brings the marker to the newest format.
///
/// Fails if the bucket has no marker, or one of a format that this version does not know.
pub async fn upgrade_marker(bucket: &dyn Bucket) -> Result<Upgrade> {
    let found = bucket.get(object_keys::FORMAT).await?.ok_or_else(|| {
        unusable(bucket, format!("it has no `{}`", object_keys::FORMAT))
            .hint("`larder init` prepares a bucket")
    })?;
    let format = Format::check(&found.body).map_err(|reason| unusable(bucket, reason))?;
    let newest = Format::current(format.conditional_writes);
    if format.version == newest.version {
        return Ok(Upgrade::Newest(newest.version));
    }
    let condition = found.etag.map_or(Condition::None, Condition::IfMatch);
    match bucket.put(object_keys::FORMAT, newest.to_json().into(), ContentType::Json, condition).await? {
        Put::Written => Ok(Upgrade::Done { from: format.version, to: newest.version }),
        Put::Refused => Err(Error::transient(Area::Bucket, "cannot upgrade the bucket")
            .because("another program has changed its marker")
            .hint("try again")),
    }
}

/// Whether the server refuses a write whose condition does not hold. Some servers ignore the condition.
async fn has_conditional_writes(bucket: &dyn Bucket) -> Result<bool> {
    let probe = probe_key();
    bucket.put(&probe, "first\n".into(), ContentType::Text, Condition::None).await?;
    let put = bucket.put(&probe, "second\n".into(), ContentType::Text, Condition::IfAbsent).await;
    bucket.delete(&probe).await?;
    Ok(matches!(put, Ok(Put::Refused)))
}

fn unusable(bucket: &dyn Bucket, cause: String) -> Error {
    Error::permanent(Area::Bucket, format!("cannot use `{}`", bucket.address())).because(cause)
}
