//! For how long objects have been needed by no narinfo.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use super::lists::objects;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::orphans::{ORPHANS, decode, encode, new_key};

/// A NAR goes when no narinfo has named it for this long: clients remember narinfos for 30 days.
pub const NAR_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The number of records that are read at the same time.
const CONCURRENT: usize = 16;

/// A record, as it stands in the bucket.
#[derive(Clone, Debug)]
struct Record {
    key: String,
    age: Option<Duration>,
    orphans: Vec<String>,
}

/// The records of a bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(Vec<Record>);

impl Records {
    /// Reads all records.
    ///
    /// # Errors
    /// When the bucket fails, or a record cannot be understood.
    pub(super) async fn read(bucket: &dyn Bucket) -> Result<Self> {
        let reads = objects(bucket, ORPHANS).await?.into_iter().map(|object| async move {
            let Some(found) = bucket.get(&object.key).await? else { return Ok(None) };
            let orphans = decode(&found.body).map_err(|reason| {
                Error::permanent(Area::Bucket, format!("cannot understand `{}`", object.key))
                    .because(reason)
                    .hint("delete it: then the objects that nothing needs stay longer")
            })?;
            Ok::<_, Error>(Some(Record { key: object.key, age: object.age, orphans }))
        });
        let records: Vec<_> = stream::iter(reads).buffer_unordered(CONCURRENT).try_collect().await?;
        Ok(Self(records.into_iter().flatten().collect()))
    }

    /// Those of the orphans that have been recorded for at least `grace`. Without a grace, all of them.
    pub(super) fn old(&self, orphans: &BTreeSet<&str>, grace: Duration) -> Vec<String> {
        if grace.is_zero() {
            return orphans.iter().map(|key| (*key).to_owned()).collect();
        }
        let mut ages: HashMap<&str, Duration> = HashMap::new();
        for record in &self.0 {
            for key in &record.orphans {
                let age = ages.entry(key).or_default();
                // A record of unknown age may be new.
                *age = record.age.unwrap_or_default().max(*age);
            }
        }
        let is_old = |key: &&&str| ages.get(**key).is_some_and(|age| *age >= grace);
        orphans.iter().filter(is_old).map(|key| (*key).to_owned()).collect()
    }

    /// Records the orphans that are new, and takes those out of the records that are none any more.
    ///
    /// # Errors
    /// When the bucket fails. Nothing counts as older than it is then.
    pub(super) async fn update(
        &self,
        bucket: &dyn Bucket,
        orphans: &BTreeSet<&str>,
        exists: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let mut recorded = BTreeSet::new();
        for record in &self.0 {
            let left: Vec<_> = record.orphans.iter().filter(|key| orphans.contains(key.as_str())).collect();
            // An object that is named again is young again when the next narinfo that names it is gone: the record is written
            // anew, so that all of it is young. That is rare.
            let is_needed = record.orphans.iter().any(|key| exists(key) && !orphans.contains(key.as_str()));
            if is_needed || left.is_empty() {
                write(bucket, left.iter().map(|key| key.as_str())).await?;
                bucket.delete(&record.key).await?;
            }
            recorded.extend(left.into_iter().map(String::as_str));
        }
        write(bucket, orphans.iter().copied().filter(|key| !recorded.contains(key))).await
    }
}

async fn write<'k>(bucket: &dyn Bucket, orphans: impl Iterator<Item = &'k str>) -> Result<()> {
    for record in encode(orphans) {
        bucket.put(&new_key(), record.into(), ContentType::Text, Condition::None).await?;
    }
    Ok(())
}
