//! What goes when a person removes paths, and the tombstones that keep them away.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use nix_derivation::nixbase32;

use super::garbage::Garbage;
use crate::base::error::{Error, Result};
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::collection::TOMBSTONES;
use crate::format::object_keys::{HASH_PART, narinfo_of};
use crate::format::object_kind::ObjectKind;
use crate::session::HashPart;
use crate::upkeep::inventory::{Catalog, PathId, PathSet, Realised};

/// The number of objects whose versions are removed at the same time.
const CONCURRENT: usize = 16;

/// The key of the tombstone of a path.
fn tombstone(digest: &HashPart) -> String {
    format!("{TOMBSTONES}{}.json", nixbase32::encode(digest))
}

/// Writes tombstones: no writer publishes these paths, or what refers to them, again. A writer reads them with the collections,
/// which it does every five minutes.
///
/// # Errors
/// When the bucket fails.
pub async fn bury(bucket: &dyn Bucket, paths: &[HashPart], by: &str) -> Result<()> {
    for path in paths {
        let body = format!("{}\n", serde_json::json!({ "by": by }));
        bucket.put(&tombstone(path), body.into(), ContentType::Json, Condition::None).await?;
    }
    Ok(())
}

/// Permits a path again. Returns whether it had a tombstone.
///
/// # Errors
/// When the bucket fails.
pub async fn lift(bucket: &dyn Bucket, path: &HashPart) -> Result<bool> {
    let key = tombstone(path);
    let found = bucket.head(&key).await?.is_some();
    bucket.delete(&key).await?;
    Ok(found)
}

/// Removes all versions of what a removal has deleted, from a server that keeps versions.
///
/// # Errors
/// When the bucket fails. To remove the paths again removes the rest.
pub(super) async fn purge(bucket: &Arc<dyn Bucket>, catalog: &Catalog, garbage: &Garbage) -> Result<()> {
    let narinfos = garbage.paths.iter().map(|id| narinfo_of(catalog.digest(*id)));
    let keys: Vec<_> = narinfos.chain(garbage.objects.iter().cloned()).collect();
    let purges = keys.into_iter().map(|key| {
        let bucket = bucket.clone();
        async move {
            let mut versions = bucket.versions(&key).await?;
            // What stands again was published anew, and is not what was removed.
            if versions.is_empty() || bucket.head(&key).await?.is_some() {
                return Ok(());
            }
            versions.sort_by_key(|version| version.is_marker);
            for version in versions {
                bucket.delete_version(&key, &version.id).await?;
            }
            Ok::<_, Error>(())
        }
    });
    stream::iter(purges).buffer_unordered(CONCURRENT).try_collect().await
}

/// What goes with these paths: all that refers to them, the NARs that nothing else names, their listings, their logs, and their
/// realisations.
pub fn removal(catalog: &Catalog, roots: &[PathId]) -> Garbage {
    let going = catalog.referrers().above(roots);
    let staying = |id: &PathId| !going.contains(*id);
    let kept: HashSet<_> = catalog.ids().filter(staying).filter_map(|id| catalog.nar(id)).collect();
    let nars = going.iter().filter_map(|id| catalog.nar(id)).filter(|nar| !kept.contains(nar));
    let mut objects: BTreeSet<String> = nars.map(|nar| catalog.nar_object(nar).0.to_owned()).collect();
    let hashes: HashSet<String> = going.iter().map(|id| catalog.hash_part(id)).collect();
    let logs = logs(catalog, &going);
    for (key, _) in catalog.others().iter() {
        let goes = match ObjectKind::of(key) {
            ObjectKind::Listing(hash) => hash.len() == HASH_PART && hashes.contains(hash),
            ObjectKind::Log(derivation) => logs.iter().any(|log| derivation.starts_with(log)),
            ObjectKind::Realisation => match catalog.realised().get(key) {
                Some(Realised::Path(digest)) => catalog.find(digest).is_some_and(|id| going.contains(id)),
                _ => false,
            },
            _ => false,
        };
        if goes {
            objects.insert(key.to_owned());
        }
    }
    Garbage::exactly(catalog, going.iter().collect(), objects.into_iter().collect())
}

/// The derivations of the paths that go, as far as no path that stays has the same one.
fn logs<'c>(catalog: &'c Catalog, going: &PathSet) -> BTreeSet<&'c str> {
    let of = |goes: bool| catalog.ids().filter(move |id| going.contains(*id) == goes);
    let kept: HashSet<&str> = of(false).filter_map(|id| catalog.deriver(id)).collect();
    of(true).filter_map(|id| catalog.deriver(id)).filter(|deriver| !kept.contains(deriver)).collect()
}
