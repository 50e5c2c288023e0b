//! Reads realisations: only their contents tell which paths they name.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::objects::Objects;
use crate::base::error::{Error, Result};
use crate::bucket::Bucket;
use crate::format::object_kind::ObjectKind;
use crate::format::realisation::{LARGEST, path_of};

/// The number of realisations that are read at the same time.
const CONCURRENT: usize = 48;

/// What a realisation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Realised {
    /// The path with this hash part.
    Path([u8; 20]),
    /// No client can read it.
    Unreadable,
}

/// Reads the realisations among these objects, by their keys. Those that were removed meanwhile are left out.
///
/// # Errors
/// When a request fails.
pub(super) async fn read_realised(
    bucket: &dyn Bucket,
    objects: &Objects,
) -> Result<BTreeMap<String, Realised>> {
    let realisations = objects.iter().filter(|(key, _)| ObjectKind::of(key) == ObjectKind::Realisation);
    let listed: Vec<_> = realisations.map(|(key, object)| (key.to_owned(), object.size)).collect();
    let reads = listed.into_iter().map(|(key, size)| async move {
        if size > LARGEST {
            return Ok(Some((key, Realised::Unreadable)));
        }
        let Some(found) = bucket.get(&key).await? else { return Ok(None) };
        let path = path_of(&found.body).map_or(Realised::Unreadable, |path| Realised::Path(*path.digest()));
        Ok::<_, Error>(Some((key, path)))
    });
    let read: Vec<_> = stream::iter(reads).buffer_unordered(CONCURRENT).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}
