//! The needs in a bucket: for those who decide by them, and compacted.

use crate::base::error::Result;
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::need::{Compaction, compact, new_compacted};
use crate::survey::read_needs;
use crate::upkeep::rules::Uses;

/// Adds what pushes have recorded in the bucket.
///
/// # Errors
/// When the bucket fails, or a need cannot be understood.
pub async fn add_needs(bucket: &dyn Bucket, uses: &mut Uses) -> Result<()> {
    read_needs(bucket, &mut |need| uses.add_need(&need)).await
}

/// Replaces the needs that are older than a day by few objects, and returns how many it has replaced. `keep` says which
/// paths the bucket has, by their hash parts.
///
/// The new objects are written before the old ones are deleted, so this may end at any step, and several may do it at the same
/// time.
///
/// # Errors
/// When the bucket fails, or a need cannot be understood. Then no path is lost, and some may be named twice.
pub async fn compact_needs(bucket: &dyn Bucket, keep: &(dyn Fn(&[u8; 20]) -> bool + Sync)) -> Result<usize> {
    let mut standing = Vec::new();
    read_needs(bucket, &mut |need| standing.push(need)).await?;
    let Compaction { written, deleted } = compact(&standing, keep);
    for need in written {
        // If the condition does not hold, an earlier attempt of this call has written the object: its key is new.
        bucket.put(&new_compacted(), need.to_json().into(), ContentType::Json, Condition::IfAbsent).await?;
    }
    bucket.delete_many(&deleted).await?;
    Ok(deleted.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::format::need::{NEEDS, Need, key};
    use crate::format::object_keys;
    use crate::upkeep::house::{self, House};
    use crate::upkeep::rules::Use;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    async fn need(house: &House, paths: &[&str], days: u32) {
        let names = paths.iter().map(|name| house::path(name).to_basename().to_string());
        let key = key(&object_keys::new_writer(), 0);
        house.put(&key, Need::of(names)[0].to_json()).await;
        house.bucket.make_older(&key, DAY * days);
    }

    /// For each path, the days since it was last needed.
    async fn days(house: &House) -> BTreeMap<String, u64> {
        let mut days = BTreeMap::new();
        let mut add = |need: crate::format::need::StandingNeed| {
            for (path, ago) in need.paths() {
                // Times are rounded to the younger side.
                let ago = (ago + Duration::from_secs(60)).as_secs() / DAY.as_secs();
                let latest = days.entry(path.name().to_owned()).or_insert(u64::MAX);
                *latest = ago.min(*latest);
            }
        };
        read_needs(&house.bucket, &mut add).await.unwrap();
        days
    }

    async fn objects(house: &House) -> Vec<String> {
        let page = house.bucket.list(NEEDS, None, crate::bucket::Depth::Flat).await.unwrap();
        page.objects.into_iter().map(|object| object.key).collect()
    }

    #[tokio::test]
    async fn needs_become_few_and_say_the_same() {
        let house = House::new().await;
        for (paths, days) in [(&["a", "b"][..], 40), (&["b", "c"], 20), (&["d"], 2), (&["a"], 0)] {
            need(&house, paths, days).await;
        }
        let before = days(&house).await;
        assert_eq!(before, [("a", 0), ("b", 20), ("c", 20), ("d", 2)].map(|(n, d)| (n.to_owned(), d)).into());
        assert_eq!(compact_needs(&house.bucket, &|_| true).await.unwrap(), 3);
        assert_eq!((objects(&house).await.len(), days(&house).await), (2, before));
        // The days pass; a path that the bucket does not have any more is forgotten.
        for key in objects(&house).await {
            house.bucket.make_older(&key, DAY * 7);
        }
        let gone = *house::path("d").digest();
        assert_eq!(compact_needs(&house.bucket, &|path| *path != gone).await.unwrap(), 2);
        assert_eq!(
            days(&house).await,
            [("a", 7), ("b", 27), ("c", 27)].map(|(n, d)| (n.to_owned(), d)).into()
        );
        assert_eq!(objects(&house).await.len(), 1);
        assert_eq!(compact_needs(&house.bucket, &|_| true).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_pushes_asked_for_counts_for_the_rules() {
        let house = House::new().await;
        house.publish("a", &[]).await;
        house.bucket.make_older(&house::narinfo("a"), DAY * 90);
        need(&house, &["a", "elsewhere"], 3).await;
        let (mut uses, catalog) = (Uses::default(), house.catalog().await);
        add_needs(&house.bucket, &mut uses).await.unwrap();
        let decision = crate::upkeep::rules::decide(&catalog, &[], &Default::default(), &uses);
        let (ago, how) = decision.need(house::id(&catalog, "a")).unwrap();
        assert_eq!((ago.as_secs() / DAY.as_secs(), how), (3, Use::Asked));
    }

    #[tokio::test]
    async fn an_unreadable_need_ends_the_compaction_before_its_first_change() {
        let house = House::new().await;
        need(&house, &["a"], 2).await;
        house.put(&key(&object_keys::new_writer(), 1), "{}").await;
        let before = objects(&house).await;
        assert!(compact_needs(&house.bucket, &|_| true).await.is_err());
        assert_eq!(objects(&house).await, before);
    }
}
