//! What goes when a person removes paths, and the tombstones that keep them away.

use std::collections::{BTreeSet, HashSet};

use nix_derivation::nixbase32;

use super::garbage::Garbage;
use crate::base::error::Result;
use crate::bucket::{Bucket, Condition, ContentType, is_key};
use crate::format::collection::TOMBSTONES;
use crate::format::object_keys::HASH_PART;
use crate::format::object_kind::ObjectKind;
use crate::session::HashPart;
use crate::upkeep::inventory::{Catalog, PathId, PathSet, Realised};

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
        if goes && is_key(key) {
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
