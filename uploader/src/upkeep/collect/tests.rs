//! Tests of what a collection takes, saves and brings back, on a bucket in memory. `tests/tests/upkeep/` runs whole collections.

use std::sync::Arc;
use std::time::Duration;

use super::garbage::orphans;
use super::undo::expire;
use super::*;
use crate::base::file::MAX_SMALL;
use crate::bucket::Bucket;
use crate::format::collection::{Saved, saved, summary};
use crate::format::marker::Format;
use crate::format::object_keys;
use crate::format::orphans::PURGES;
use crate::session::{HashPart, Session};
use crate::upkeep::house::{self, House, id, path};

fn digest(name: &str) -> HashPart {
    *path(name).digest()
}

/// Saves narinfos as the collection `id` does, with the references that the bucket did not have, and takes them out of the bucket.
async fn take(house: &House, id: &str, names: &[&str], upstream: &[&str]) {
    let mut pieces = Saved::default();
    for name in names {
        pieces.add(&digest(name), &house.bucket_bytes(&house::narinfo(name)).await);
        house.delete(&house::narinfo(name)).await;
    }
    upstream.iter().for_each(|name| pieces.add(&digest(name), b""));
    house.put(&saved(id, 0), pieces.rest().unwrap()).await;
    house.put(&summary(id), r#"{"paths":1,"pieces":1,"bytes":1,"by":"x"}"#).await;
}

/// Undoes a collection. Returns what became of each path.
async fn undone(house: &House, id: &str) -> Vec<(HashPart, String)> {
    house.put(object_keys::FORMAT, Format::current(true).to_json()).await;
    let session = Session::open(house.shared(), "/nix/store", &[], &[]).await.unwrap();
    let mut undone = Vec::new();
    undo(&session, id, |path, what| undone.push((*path, format!("{what:?}")))).await.unwrap();
    session.close().await;
    undone
}

#[tokio::test]
async fn a_path_comes_back_only_with_its_references() {
    let house = House::new().await;
    for (name, references) in
        [("low", &["far"][..]), ("purged", &[]), ("high", &["low", "purged"]), ("top", &["high"])]
    {
        house.publish(name, references).await;
    }
    take(&house, "one", &["top", "high", "low"], &["far"]).await;
    house.delete(&house::narinfo("purged")).await;
    let undone = undone(&house, "one").await;
    let of = |name: &str| undone.iter().find(|(path, _)| *path == digest(name)).unwrap().1.clone();
    assert_eq!(of("low"), "Back");
    assert!(of("high").contains("cannot be brought back") && of("top").contains("cannot be brought back"));
    let stands = async |name: &str| house.bucket.head(&house::narinfo(name)).await.unwrap().is_some();
    assert!(stands("low").await && !stands("high").await && !stands("top").await);
}

#[tokio::test]
async fn damage_to_one_collection_keeps_no_other_from_being_undone() {
    let house = House::new().await;
    house.publish("a", &[]).await;
    house.publish("b", &[]).await;
    take(&house, "one", &["a"], &[]).await;
    take(&house, "two", &["b"], &[]).await;
    house.delete(&saved("two", 0)).await;
    house.put(&summary("three"), "rubbish").await;
    assert_eq!(past(&house.bucket).await.unwrap().len(), 2);
    assert_eq!(undone(&house, "one").await, [(digest("a"), "Back".to_owned())]);
}

#[tokio::test]
async fn what_was_saved_expires_as_a_whole() {
    let grace = Duration::from_secs(100);
    let house = House::new().await;
    house.publish("a", &[]).await;
    house.publish("b", &[]).await;
    take(&house, "old", &["a"], &[]).await;
    take(&house, "young", &["b"], &[]).await;
    house.put(&saved("begun", 0), "x").await;
    for key in [saved("old", 0), summary("old"), saved("young", 0), saved("begun", 0)] {
        house.bucket.make_older(&key, grace * 2);
    }
    expire(&house.bucket, grace).await.unwrap();
    let stands = async |key: &str| house.bucket.head(key).await.unwrap().is_some();
    assert!(!stands(&saved("old", 0)).await && !stands(&summary("old")).await);
    assert!(stands(&saved("young", 0)).await && stands(&summary("young")).await);
    assert!(!stands(&saved("begun", 0)).await);
    expire(&house.bucket, Duration::ZERO).await.unwrap();
    assert!(!stands(&saved("young", 0)).await && !stands(&summary("young")).await);
}

#[tokio::test]
async fn a_nar_that_some_narinfo_names_is_no_orphan() {
    let house = House::new().await;
    let sound = house.publish("sound", &[]).await;
    let lost = house.publish("lost", &[]).await;
    house.delete(&house::narinfo("lost")).await;
    // A narinfo with another label than its NAR has, and one with another size.
    let (label, size) = (house.publish("label", &[]).await, house.publish("size", &[]).await);
    for (name, of, to) in
        [("label", "Compression: zstd", "Compression: xz"), ("size", "FileSize: ", "FileSize: 9")]
    {
        let text = String::from_utf8(house.bucket_bytes(&house::narinfo(name)).await).unwrap();
        assert!(text.contains(of));
        house.put(&house::narinfo(name), text.replace(of, to)).await;
    }
    let catalog = house.catalog().await;
    for name in ["label", "size"] {
        assert!(catalog.fault(id(&catalog, name)).is_some(), "{name}");
    }
    let found: Vec<_> = orphans(&catalog).into_iter().collect();
    assert_eq!(found, [&*lost], "{sound} {label} {size}");
}

#[tokio::test]
async fn a_narinfo_that_names_an_object_of_another_kind_has_no_nar() {
    let house = House::new().await;
    house.publish("victim", &[]).await;
    let nar = house.publish("evil", &[]).await;
    for target in [house::narinfo("victim"), object_keys::CACHE_INFO.to_owned()] {
        let text = String::from_utf8(house.bucket_bytes(&house::narinfo("evil")).await).unwrap();
        let line = text.lines().find(|line| line.starts_with("URL: ")).unwrap().to_owned();
        house.put(&house::narinfo("evil"), text.replace(&line, &format!("URL: {target}"))).await;
        let catalog = house.catalog().await;
        let goes = removal(&catalog, &[id(&catalog, "evil")]);
        assert!(!goes.objects.contains(&target), "{:?} {nar}", goes.objects);
    }
}

#[tokio::test]
async fn a_narinfo_that_is_too_large_is_not_read() {
    let house = House::new().await;
    house.publish("a", &[]).await;
    house.put(&house::narinfo("huge"), vec![b'x'; usize::try_from(MAX_SMALL).unwrap() + 1]).await;
    let catalog = house.catalog().await;
    let fault = catalog.fault(id(&catalog, "huge")).unwrap().text();
    assert!(fault.contains("bytes"), "{fault}");
    assert_eq!(removal(&catalog, &[id(&catalog, "huge")]).paths.len(), 1);
}

#[tokio::test]
async fn a_purge_takes_what_no_narinfo_leads_to_any_more() {
    let house = House::new().await;
    let shared: Arc<dyn Bucket> = house.shared();
    let collected = house.publish("collected", &[]).await;
    take(&house, "one", &["collected"], &[]).await;
    let standing = house.publish("standing", &[]).await;
    let twin = object_keys::new_nar(
        &house::info("standing", &[]).nar_hash,
        object_keys::Compression::Zstd,
        "abcdefghij",
    );
    house.put(&twin, "the same").await;
    let other = house.publish("other", &[]).await;
    // An earlier purge was killed after the narinfo was gone.
    let left = house.publish("left", &[]).await;
    house.delete(&house::narinfo("left")).await;
    house.put(&format!("{PURGES}x.txt"), format!("{left}\n{other}\nnix-cache-info\n")).await;

    let catalog = house.catalog().await;
    let wanted = [digest("collected"), digest("standing")];
    let garbage = removal(&catalog, &[id(&catalog, "standing")]);
    let (mut purge, garbage) = Purge::of(&*shared, &catalog, &wanted, garbage).await.unwrap();
    let mut expected = vec![collected, standing, twin, left];
    expected.sort();
    assert_eq!(garbage.objects, expected, "{other}");
    purge.record(&*shared).await.unwrap();
    let (again, _) = Purge::of(&*shared, &catalog, &[], removal(&catalog, &[])).await.unwrap();
    purge.finish(&shared).await.unwrap();
    let records = shared.list(PURGES, None, crate::bucket::Depth::Flat).await.unwrap();
    assert!(records.objects.is_empty());
    // Whoever had begun in between finds the same.
    again.finish(&shared).await.unwrap();
}
