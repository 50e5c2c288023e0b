//! Reads and writes the objects of collections.

use crate::base::error::Result;
use crate::bucket::{Bucket, Condition, ContentType, Depth, ObjectMeta};
use crate::format::collection::{List, Part, piece};
use crate::format::members;
use crate::session::Parts;

/// Puts a list into the bucket: its pieces and its short form, and then its header, which makes it count.
///
/// # Errors
/// When the bucket fails. The list may count all the same.
pub(super) async fn publish(bucket: &dyn Bucket, key: &str, list: &List, removal: bool) -> Result<()> {
    let (header, pieces) = list.encode(removal);
    for (number, contents) in (0..).zip(pieces) {
        bucket.put(&piece(key, number), contents.into(), ContentType::Text, Condition::None).await?;
    }
    let short = members::encode(list);
    bucket.put(&members::key(key), short.into(), ContentType::Binary, Condition::None).await?;
    put(bucket, key, header).await
}

/// All objects below a prefix.
///
/// # Errors
/// When the bucket fails.
pub(super) async fn objects(bucket: &dyn Bucket, prefix: &str) -> Result<Vec<ObjectMeta>> {
    let (mut objects, mut next) = (Vec::new(), None);
    loop {
        let page = bucket.list(prefix, next.as_ref(), Depth::Flat).await?;
        objects.extend(page.objects);
        next = page.next;
        if next.is_none() {
            return Ok(objects);
        }
    }
}

/// Puts an object in JSON.
///
/// # Errors
/// When the bucket fails.
pub(super) async fn put(bucket: &dyn Bucket, key: &str, json: Vec<u8>) -> Result<()> {
    bucket.put(key, json.into(), ContentType::Json, Condition::None).await.map(drop)
}

/// Removes the objects of a collection that has ended: `done` last, so that it stays ended.
///
/// # Errors
/// When the bucket fails. The next collection removes the rest.
pub(super) async fn clear(bucket: &dyn Bucket, id: &str, parts: &Parts) -> Result<()> {
    let done = Part::Done.key(id);
    let (last, others): (Vec<_>, Vec<_>) = parts.keys.iter().cloned().partition(|key| *key == done);
    bucket.delete_many(&others).await?;
    bucket.delete_many(&last).await
}
