//! Takes the inventory of a bucket.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use nix_derivation::store_path::StoreDir;
use nix_narinfo::TrustedPublicKey;

use super::building::Building;
use super::catalog::{Catalog, PathId, Reference};
use super::listing::list;
use super::reading::{Read, Trust, read_all};
use super::realised::read_realised;
use super::records::{Record, Records};
use crate::base::clock::Moment;
use crate::base::error::Result;
use crate::base::file::MAX_SMALL;
use crate::bucket::Bucket;
use crate::format::object_keys;

/// The number of concurrent questions for single objects.
const CONCURRENT: usize = 48;
/// How much earlier than the listing an object may seem to be written, because servers round times.
pub const MARGIN: Duration = Duration::from_secs(5);
/// The number of times that a narinfo which changes meanwhile is read again.
const LOOKS: usize = 3;
/// The number of missing NARs about which the bucket is asked one by one. If all of them are missing, the listing is
/// believed about the others.
const MOST_ASKED: usize = if cfg!(test) { 50 } else { 2000 };

/// What an inventory needs besides the bucket.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store directory of the bucket.
    pub store_dir: StoreDir,
    /// The keys that clients trust.
    pub trusted: Vec<TrustedPublicKey>,
}

/// Is told how many narinfos are done, and how many there are.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Lists the bucket, and reads each narinfo that `records` does not have.
///
/// Writers may run meanwhile. What a narinfo needs is asked again before it counts as missing, if the narinfo is as young as
/// the listing.
///
/// # Errors
/// When a request fails: the bucket is then unknown.
pub async fn take(
    bucket: &dyn Bucket,
    options: &Options,
    records: &mut dyn Records,
    progress: Progress<'_>,
) -> Result<Catalog> {
    let begun = Moment::now();
    let mut building = Building::new(list(bucket).await?);
    let trust = Trust::new(options.store_dir.clone(), options.trusted.clone());
    let total = building.catalog.size();
    let mut unread = Vec::new();
    for number in 0..total as u32 {
        let id = PathId(number);
        let row = building.catalog.row(id);
        let (digest, object) = (row.digest, row.object);
        match records.get(&digest, &object) {
            Some(record) => building.fill(id, record),
            None if object.size > MAX_SMALL => building.fill(id, Record::too_large(object.size)),
            None => unread.push(digest),
        }
    }
    let mut done = total - unread.len();
    progress(done, total);
    let mut changed = HashSet::new();
    read_all(bucket, &trust, unread, |portion| {
        done += portion.len();
        take_portion(&mut building, records, portion, &mut changed);
        progress(done, total);
    })
    .await?;
    let mut looks = 0;
    while looks < LOOKS {
        match look_again(bucket, &trust, &mut building, records, begun, &mut changed).await? {
            Look::Settled => break,
            Look::Replaced => looks += 1,
            Look::Fewer => {}
        }
    }
    building.catalog.realised = read_realised(bucket, building.catalog.others()).await?;
    let catalog = building.finish();
    records.keep_only(catalog.paths(), &|digest| catalog.find(digest).is_some());
    Ok(catalog)
}

/// Fills in narinfos that were read. Notes those that are not the object of the listing.
fn take_portion(
    building: &mut Building,
    records: &mut dyn Records,
    portion: Vec<Read>,
    changed: &mut HashSet<PathId>,
) {
    for (digest, read) in portion {
        // Only listed narinfos are read.
        let Some(id) = building.catalog.find(&digest) else { continue };
        let Some((object, record)) = read else {
            building.gone(id);
            continue;
        };
        let listed = *building.catalog.narinfo(id);
        if listed.is_same(&object) {
            records.put(&digest, &listed, &record);
        } else {
            building.read_as(id, object);
            changed.insert(id);
        }
        building.fill(id, record);
    }
}

/// What another look at the bucket has changed.
enum Look {
    /// What is missing now is missing.
    Settled,
    /// Narinfos were replaced meanwhile, and may need other NARs.
    Replaced,
    /// Many NARs were in doubt. Some of them are there, so that the others deserve a question, too.
    Fewer,
}

/// Asks the bucket again about what young narinfos need and the listing does not have.
async fn look_again(
    bucket: &dyn Bucket,
    trust: &Arc<Trust>,
    building: &mut Building,
    records: &mut dyn Records,
    begun: Moment,
    changed: &mut HashSet<PathId>,
) -> Result<Look> {
    let before = building.doubtful.len();
    let in_doubt = building.doubtful.iter();
    let mut doubtful: Vec<_> =
        in_doubt.filter_map(|(id, record)| Some((*id, record.nar.as_ref()?.key.clone()))).collect();
    // What was written while the bucket was listed is young, or of unknown age.
    doubtful.sort_by_key(|(id, _)| (building.catalog.age(*id), *id));
    doubtful.truncate(MOST_ASKED);
    let is_full = doubtful.len() == MOST_ASKED;
    let asked = doubtful
        .clone()
        .into_iter()
        .map(|(id, key)| async move { bucket.head(&key).await.map(|meta| (id, meta)) });
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(CONCURRENT).try_collect().await?;
    for (id, meta) in answers {
        if let Some(meta) = meta {
            building.found_nar(id, &meta);
        }
    }
    ask_references(bucket, building, begun, changed).await?;
    // A narinfo whose NAR is missing may have been replaced or removed meanwhile.
    let again: Vec<_> =
        doubtful.into_iter().map(|(id, _)| id).filter(|id| building.doubtful.contains_key(id)).collect();
    let again = again.into_iter().map(|id| *building.catalog.digest(id)).collect();
    let mut replaced = HashSet::new();
    read_all(bucket, trust, again, |portion| take_portion(building, records, portion, &mut replaced)).await?;
    changed.extend(&replaced);
    Ok(match replaced.is_empty() {
        _ if is_full && building.doubtful.len() < before => Look::Fewer,
        true => Look::Settled,
        false => Look::Replaced,
    })
}

/// Asks for the references that young narinfos have and the listing has not.
async fn ask_references(
    bucket: &dyn Bucket,
    building: &mut Building,
    begun: Moment,
    changed: &HashSet<PathId>,
) -> Result<()> {
    let young = begun.elapsed() + MARGIN;
    let catalog = &building.catalog;
    let is_young = |id: &PathId| changed.contains(id) || catalog.age(*id).is_none_or(|age| age <= young);
    let absent: HashSet<u32> = catalog
        .ids()
        .filter(is_young)
        .flat_map(|id| catalog.references(id))
        .filter_map(|reference| match reference {
            Reference::Absent(absent) if !catalog.has_appeared(absent) => Some(absent.0),
            _ => None,
        })
        .collect();
    let asked = absent.into_iter().map(|number| {
        let key = object_keys::narinfo_of(&catalog.absent[number as usize].digest);
        async move { bucket.head(&key).await.map(|meta| (number, meta.is_some())) }
    });
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(CONCURRENT).try_collect().await?;
    for (number, is_there) in answers {
        if is_there {
            building.appeared(number);
        }
    }
    Ok(())
}
