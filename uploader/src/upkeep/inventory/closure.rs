//! The inventory of a few paths and their closures, without listings.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};

use super::building::Building;
use super::catalog::{Catalog, PathId};
use super::objects::{Listed, Object};
use super::reading::{Trust, read_all};
use super::take::Options;
use crate::base::error::Result;
use crate::bucket::Bucket;

/// The number of concurrent questions for NARs.
const CONCURRENT: usize = 48;

/// Reads the narinfos of paths, by their hash parts, and of all that they refer to, and looks their NARs up.
///
/// # Errors
/// When a request fails.
pub async fn take_closure(
    bucket: &dyn Bucket,
    options: &Options,
    roots: impl IntoIterator<Item = [u8; 20]>,
) -> Result<Catalog> {
    let trust = Trust::new(options.store_dir.clone(), options.trusted.clone());
    let mut seen: HashSet<[u8; 20]> = roots.into_iter().collect();
    let (mut next, mut found): (Vec<_>, Vec<_>) = (seen.iter().copied().collect(), Vec::new());
    while !next.is_empty() {
        let mut read = Vec::new();
        read_all(bucket, &trust, std::mem::take(&mut next), |portion| read.extend(portion)).await?;
        for (digest, answer) in read {
            let Some((object, record)) = answer else { continue };
            next.extend(
                record.references.iter().map(|(digest, _)| *digest).filter(|digest| seen.insert(*digest)),
            );
            found.push((digest, object, record));
        }
    }
    let keys = found.iter().filter_map(|(.., record)| Some(record.nar.as_ref()?.key.clone()));
    let keys: HashSet<String> = keys.collect();
    let asked = keys.into_iter().map(|key| async move { bucket.head(&key).await });
    let nars: Vec<_> = stream::iter(asked).buffer_unordered(CONCURRENT).try_collect().await?;
    let mut listed = Listed::default();
    for meta in nars.into_iter().flatten() {
        listed.nars.push(&meta.key, Object::new(&meta));
    }
    listed.narinfos.extend(found.iter().map(|(digest, object, _)| (*digest, *object)));
    listed.sort();
    let mut building = Building::new(listed);
    found.sort_by_key(|(digest, ..)| *digest);
    for (number, (.., record)) in found.into_iter().enumerate() {
        building.fill(PathId(number as u32), record);
    }
    Ok(building.finish())
}
