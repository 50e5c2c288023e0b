//! The needs that pushes have recorded in a bucket.

use std::collections::HashSet;

use futures::{StreamExt, stream};

use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Depth, ObjectMeta};
use crate::format::need::{NEEDS, Need, NeedKey, StandingNeed};

/// The number of needs that are read at the same time.
const CONCURRENT: usize = 32;
/// The number of listings that may show new objects. Each new one is a push or a compaction during the reading.
const LISTINGS: usize = 20;

/// Reads all needs, and hands each to `consume`, in no order.
///
/// A compaction may run meanwhile: it writes a new object, and then deletes those whose paths the new one holds. A listing is
/// not one moment, so it may show neither. Therefore the bucket is listed again until a listing shows nothing new. As an
/// object is only compacted when it is a day old, one that was written during this reading still stands when the next
/// listing comes by.
///
/// # Errors
/// When the bucket fails, or a need cannot be understood. A need is never ignored: what it names may have to stay.
pub async fn read_needs(bucket: &dyn Bucket, consume: &mut (dyn FnMut(StandingNeed) + Send)) -> Result<()> {
    let mut known = HashSet::new();
    for _ in 0..LISTINGS {
        let mut new = list(bucket).await?;
        new.retain(|object| known.insert(object.key.clone()));
        if new.is_empty() {
            return Ok(());
        }
        let reads = new.into_iter().map(|object| read(bucket, object));
        let mut reads = stream::iter(reads).buffer_unordered(CONCURRENT);
        while let Some(need) = reads.next().await {
            // One that was deleted meanwhile stands in another one, which a later listing shows.
            need?.into_iter().for_each(&mut *consume);
        }
    }
    Err(Error::transient(Area::Bucket, format!("cannot read the needs in `{}`", bucket.address()))
        .because("each listing shows new ones")
        .hint("try again when fewer pushes run"))
}

async fn list(bucket: &dyn Bucket) -> Result<Vec<ObjectMeta>> {
    let (mut objects, mut next) = (Vec::new(), None);
    loop {
        let page = bucket.list(NEEDS, next.as_ref(), Depth::Flat).await?;
        objects.extend(page.objects);
        next = page.next;
        if next.is_none() {
            return Ok(objects);
        }
    }
}

/// Reads a need; `None` if it was deleted meanwhile.
async fn read(bucket: &dyn Bucket, object: ObjectMeta) -> Result<Option<StandingNeed>> {
    let unreadable = |reason: String| {
        Error::permanent(Area::Bucket, format!("cannot understand the need `{}`", object.key))
            .because(reason)
            .hint(format!("look at it, and correct or delete it; keys below `{NEEDS}` are records of pushes"))
    };
    if NeedKey::parse(&object.key).is_none() {
        return Err(unreadable("its key is not that of a need".into()));
    }
    let Some(found) = bucket.get(&object.key).await? else { return Ok(None) };
    let need = Need::parse(&found.body).map_err(unreadable)?;
    Ok(Some(StandingNeed { age: object.age, key: object.key, need }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::bucket::memory::MemoryBucket;
    use crate::bucket::{Condition, ContentType};
    use crate::format::{need, object_keys};

    const PATH: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186-a";

    async fn put(bucket: &MemoryBucket, key: &str, body: &[u8]) {
        bucket.put(key, body.to_vec().into(), ContentType::Json, Condition::None).await.unwrap();
    }

    async fn read_all(bucket: &dyn Bucket) -> Result<Vec<StandingNeed>> {
        let mut needs = Vec::new();
        read_needs(bucket, &mut |need| needs.push(need)).await?;
        Ok(needs)
    }

    #[tokio::test]
    async fn needs_are_read_with_their_ages_and_none_is_ignored() {
        let bucket = MemoryBucket::default();
        let json = Need::of([PATH.to_owned()])[0].to_json();
        for days in 0..3 {
            let key = need::key(&object_keys::new_writer(), days);
            put(&bucket, &key, &json).await;
            bucket.make_older(&key, Duration::from_secs(u64::from(days) * 86_400));
        }
        let mut days: Vec<_> = read_all(&bucket).await.unwrap();
        days.sort_by_key(|need| need.age);
        let days: Vec<_> = days.iter().map(|need| need.age.unwrap().as_secs() / 86_400).collect();
        assert_eq!(days, [0, 1, 2]);
        for (key, body) in [
            ("larder/needs/x", &*json),
            (&*need::key(&object_keys::new_writer(), 0), b"x"),
            (&need::new_compacted(), b"{}"),
        ] {
            put(&bucket, key, body).await;
            let error = read_all(&bucket).await.unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
            bucket.delete(key).await.unwrap();
        }
    }

    /// All objects are replaced by one as soon as the first of them is read.
    #[tokio::test]
    async fn no_path_is_missed_while_a_compaction_runs() {
        let bucket = MemoryBucket::default();
        let name = |number: usize| format!("{number:02}{}", &PATH[2..]);
        let mut standing = Vec::new();
        for number in 0..2 * CONCURRENT {
            let (need, key) = (Need::of([name(number)]).remove(0), need::key(&object_keys::new_writer(), 0));
            put(&bucket, &key, &need.to_json()).await;
            bucket.make_older(&key, need::COMPACTED_AGE);
            standing.push(StandingNeed { key, age: Some(need::COMPACTED_AGE), need });
        }
        let mut compaction = Some(need::compact(&standing, need::COMPACTED_AGE, &|_| true));
        let mut seen = HashSet::new();
        let mut consume = |need: StandingNeed| {
            seen.extend(need.need.paths());
            let Some(need::Compaction { written, deleted }) = compaction.take() else { return };
            let replace = async {
                put(&bucket, &need::new_compacted(), &written[0].to_json()).await;
                bucket.delete_many(&deleted).await.unwrap();
            };
            replace.now_or_never().expect("a bucket in memory does not wait");
        };
        read_needs(&bucket, &mut consume).await.unwrap();
        assert_eq!(seen.len(), standing.len());
    }
}
