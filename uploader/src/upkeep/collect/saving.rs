//! Saves the narinfos that a collection takes, so that it can be undone.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, stream};

use super::last_look::Final;
use super::lists::put;
use super::marking::cannot;
use crate::base::error::{Error, Result};
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::collection::{Saved, Summary, saved, summary};
use crate::format::object_keys::narinfo_of;
use crate::session::HashPart;
use crate::upkeep::inventory::{Reference, Tag};

/// The number of narinfos that are read at the same time.
const CONCURRENT: usize = 48;

/// Saves what goes. `keep` says whether the narinfos' bytes are kept; otherwise only the summary is.
///
/// # Errors
/// When the bucket fails, or a narinfo has changed since the last look.
pub(super) async fn save(bucket: &Arc<dyn Bucket>, id: &str, last: &Final, mut found: Summary) -> Result<()> {
    let paths: Vec<_> = last.levels.iter().flat_map(|level| level.iter().copied()).collect();
    let reads = paths
        .into_iter()
        .map(|digest| async move { Ok::<_, Error>((digest, bucket.get(&narinfo_of(&digest)).await?)) });
    let mut reads = stream::iter(reads).buffered(CONCURRENT);
    let (mut pieces, mut number) = (Saved::default(), 0);
    while let Some(read) = reads.next().await {
        let (digest, object) = read?;
        let standing = last.catalog.find(&digest).map(|id| *last.catalog.narinfo(id));
        let is_same = object.as_ref().is_some_and(|object| {
            standing.is_some_and(|standing| {
                standing.size == object.body.len() as u64
                    && standing.tag == object.etag.as_deref().map(Tag::of)
            })
        });
        let Some(object) = object.filter(|_| is_same) else {
            let key = narinfo_of(&digest);
            return Err(cannot(&**bucket).because(format!(
                "`{key}` has changed since the last look: a program without a lease writes"
            )));
        };
        pieces.add(&digest, &object.body);
        if let Some(piece) = pieces.full() {
            write(&**bucket, id, number, piece).await?;
            number += 1;
        }
    }
    for path in absent(last) {
        pieces.add(&path, b"");
        if let Some(piece) = pieces.full() {
            write(&**bucket, id, number, piece).await?;
            number += 1;
        }
    }
    if let Some(piece) = pieces.rest() {
        write(&**bucket, id, number, piece).await?;
        number += 1;
    }
    found.pieces = number;
    put(&**bucket, &summary(id), json(&found)).await
}

/// The references of what goes that the bucket does not have.
fn absent(last: &Final) -> BTreeSet<HashPart> {
    let catalog = &last.catalog;
    let ids = last.levels.iter().flat_map(|level| level.iter()).filter_map(|path| catalog.find(path));
    let absent = ids.flat_map(|id| catalog.references(id)).filter_map(|reference| match reference {
        Reference::Absent(absent) if !catalog.has_appeared(absent) => catalog.absent_path(absent),
        _ => None,
    });
    absent.map(|path| *path.digest()).collect()
}

/// The contents of a summary.
pub(super) fn json(summary: &Summary) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(summary).unwrap_or_default();
    json.push(b'\n');
    json
}

async fn write(bucket: &dyn Bucket, id: &str, number: u32, piece: Vec<u8>) -> Result<()> {
    bucket.put(&saved(id, number), piece.into(), ContentType::Text, Condition::None).await.map(drop)
}
