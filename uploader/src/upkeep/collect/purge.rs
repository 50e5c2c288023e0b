//! What a purge removes for good: also what earlier removals, collections and purges have left, and all versions.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::garbage::Garbage;
use super::lists::objects;
use super::succession::may_go;
use super::undo::saved_narinfos;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::object_keys::{self, narinfo_hash, narinfo_of, parse_nar};
use crate::format::orphans::{PURGES, decode, encode};
use crate::session::HashPart;
use crate::upkeep::inventory::{Catalog, PathSet};

/// The number of objects whose versions are removed at the same time.
const CONCURRENT: usize = 16;

/// The objects that are to be gone for good, with all their versions. A record of them stands in the bucket until they are: a purge
/// that was killed leaves objects that no narinfo leads to, and the next purge finishes it.
#[derive(Clone, Debug)]
pub struct Purge {
    keys: BTreeSet<String>,
    /// The records of this purge and of earlier ones.
    records: Vec<String>,
}

impl Purge {
    /// What is to be purged when these paths go with `garbage`. Adds the objects that stand and that no narinfo leads to any more
    /// to the garbage: the NARs of paths that a collection has taken, other uploads of the same contents, and what earlier purges
    /// have left.
    ///
    /// # Errors
    /// When the bucket fails.
    pub async fn of(
        bucket: &dyn Bucket,
        catalog: &Catalog,
        digests: &[HashPart],
        garbage: Garbage,
    ) -> Result<(Self, Garbage)> {
        let (mut keys, records) = unfinished(bucket).await?;
        let saved = saved_narinfos(bucket, digests).await?;
        keys.extend(saved.into_iter().map(|named| named.url));
        keys.extend(same_contents(catalog, &garbage, &keys));
        keys.extend(garbage.objects.iter().cloned());
        keys.extend(digests.iter().map(narinfo_of));
        keys.extend(garbage.paths.iter().map(|id| narinfo_of(catalog.digest(*id))));
        keys.retain(|key| may_go(key) || narinfo_hash(key).is_some());
        let going = PathSet::of(catalog.size(), garbage.paths.iter().copied());
        let staying = catalog.ids().filter(|id| !going.contains(*id));
        let named: HashSet<&str> =
            staying.filter_map(|id| catalog.nar(id)).map(|nar| catalog.nar_object(nar).0).collect();
        let stands =
            |key: &&String| catalog.nars().find(key).is_some() || catalog.others().find(key).is_some();
        let objects = keys.iter().filter(|key| may_go(key) && !named.contains(key.as_str())).filter(stands);
        let garbage = Garbage::exactly(catalog, garbage.paths.clone(), objects.cloned().collect());
        Ok((Self { keys, records }, garbage))
    }

    /// Records what goes, before anything does.
    ///
    /// # Errors
    /// When the bucket fails.
    pub(super) async fn record(&mut self, bucket: &dyn Bucket) -> Result<()> {
        for record in encode(self.keys.iter().map(String::as_str)) {
            let key = format!("{PURGES}{}.txt", object_keys::new_writer());
            bucket.put(&key, record.into(), ContentType::Text, Condition::None).await?;
            self.records.push(key);
        }
        Ok(())
    }

    /// Removes all versions of what was deleted, from a server that keeps versions, and then the records.
    ///
    /// # Errors
    /// When the bucket fails. Another purge of any path finishes this one.
    pub(super) async fn finish(self, bucket: &Arc<dyn Bucket>) -> Result<()> {
        let purges = self.keys.into_iter().map(|key| remove_versions(bucket, key));
        stream::iter(purges).buffer_unordered(CONCURRENT).try_collect::<()>().await?;
        bucket.delete_many(&self.records).await
    }
}

/// Removes all versions of an object that was deleted.
async fn remove_versions(bucket: &Arc<dyn Bucket>, key: String) -> Result<()> {
    let mut versions = bucket.versions(&key).await?;
    // What stands again was published anew, and is not what was removed.
    if versions.is_empty() || bucket.head(&key).await?.is_some() {
        return Ok(());
    }
    versions.sort_by_key(|version| version.is_marker);
    for version in versions {
        bucket.delete_version(&key, &version.id).await?;
    }
    Ok(())
}

/// The uploads of the same contents as the paths that go, or as the NARs with these keys, unless a path that stays has these contents.
fn same_contents(catalog: &Catalog, garbage: &Garbage, keys: &BTreeSet<String>) -> Vec<String> {
    let going = PathSet::of(catalog.size(), garbage.paths.iter().copied());
    let staying = catalog.ids().filter(|id| !going.contains(*id));
    let kept: HashSet<&[u8; 32]> = staying.map(|id| catalog.nar_hash(id)).collect();
    let hashes = garbage.paths.iter().map(|id| *catalog.nar_hash(*id));
    let mut hashes: HashSet<[u8; 32]> =
        hashes.chain(keys.iter().filter_map(|key| Some(parse_nar(key)?.0))).collect();
    hashes.retain(|hash| !kept.contains(hash));
    let is_same = |key: &&str| parse_nar(key).is_some_and(|(hash, _)| hashes.contains(&hash));
    catalog.nars().iter().map(|(key, _)| key).filter(is_same).map(str::to_owned).collect()
}

/// What earlier purges have not finished, and their records.
async fn unfinished(bucket: &dyn Bucket) -> Result<(BTreeSet<String>, Vec<String>)> {
    let records: Vec<_> = objects(bucket, PURGES).await?.into_iter().map(|object| object.key).collect();
    let mut keys = BTreeSet::new();
    for record in &records {
        let Some(found) = bucket.get(record).await? else { continue };
        let named = decode(&found.body).map_err(|reason| {
            Error::permanent(Area::Bucket, format!("cannot understand `{record}`"))
                .because(reason)
                .hint("delete it, and remove what was to be purged again")
        })?;
        keys.extend(named);
    }
    Ok((keys, records))
}
