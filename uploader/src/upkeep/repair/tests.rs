//! Repairs of damaged buckets in memory, with real narinfos and NARs.

use std::collections::HashSet;
use std::sync::Arc;

use globset::GlobSet;
use nix_derivation::StoreDir;

use super::*;
use crate::bucket::{Bucket, memory::MemoryBucket};
use crate::format::object_keys::{self, Compression};
use crate::format::signature::SecretKey;
use crate::format::summary::FaultKind;
use crate::push::decide::Rules;
use crate::push::progress::Silent;
use crate::push::send::compress::{Level, Settings};
use crate::push::{Options, PinRules, Pusher};
use crate::store::{DaemonAddress, StoreLocation};
use crate::upkeep::house::{House, id, nar, narinfo, path};
use crate::upkeep::inventory::Catalog;
use crate::upkeep::verify::{Fault, Kind, read_contents, structure};

/// A bucket with `top`, which refers to `middle`, which refers to `base`.
async fn house(key: &SecretKey) -> House {
    let house = House { key: key.clone(), ..House::new().await };
    for (name, references) in [("base", &[][..]), ("middle", &["base"]), ("top", &["middle"])] {
        house.publish(name, references).await;
    }
    house
}

fn key() -> SecretKey {
    SecretKey::generate("house-1").unwrap()
}

fn source(house: &House) -> Source {
    Source::Bucket(Arc::new(house.bucket.clone()))
}

/// All faults of the bucket, also those of contents.
async fn faults(house: &House) -> (Catalog, Vec<Fault>) {
    let catalog = house.catalog().await;
    let mut faults = structure(&catalog, &HashSet::new()).faults;
    let nars = catalog.ids().filter_map(|id| catalog.nar(id)).collect();
    read_contents(&house.bucket, &catalog, nars, None, |read| faults.extend(read.faults.unwrap())).await;
    (catalog, faults)
}

fn options(adopt: &[String]) -> Options {
    Options {
        compression: Settings { compression: Compression::Zstd, level: Level::Fixed(1), threads: 1 },
        jobs: 1,
        listings: false,
        logs: Default::default(),
        rules: Rules {
            upstream_keys: Vec::new(),
            push_upstream: false,
            trusted_keys: Vec::new(),
            trust_unsigned: false,
            closure_trust: true,
            exclude: GlobSet::empty(),
            max_nar_size: None,
        },
        adopt: adopt.to_vec(),
        trust_bucket: false,
        pins: PinRules::default(),
    }
}

fn no_store() -> Arc<StoreLocation> {
    Arc::new(StoreLocation {
        store_dir: StoreDir::default(),
        real_dir: "/nonexistent".into(),
        state_dir: "/nonexistent".into(),
        log_dir: "/nonexistent".into(),
        daemon: DaemonAddress::Socket("/nonexistent/socket".into()),
    })
}

/// Repairs the bucket from these sources. Returns what became of each path.
async fn repair(house: &House, sources: &[Source], adopt: &[&str]) -> Vec<(String, Mending)> {
    let (catalog, faults) = faults(house).await;
    let mut adopt: Vec<String> = adopt.iter().map(|name| (*name).to_owned()).collect();
    adopt.push(house.key.name().to_owned());
    let (store_dir, keys) = (StoreDir::default(), [house.key.public()]);
    let examiner = Examiner {
        bucket: &house.bucket,
        store: None,
        sources,
        store_dir: &store_dir,
        trusted: &keys,
        believed: &keys,
    };
    let missing = examiner.missing(&catalog, &[]).await;
    let examined = examiner.examine(&catalog, patients(&catalog, &faults, &missing)).await.unwrap();
    let plans = examined.into_iter().map(|examined| decide(examined, &adopt)).collect();
    let bucket: Arc<dyn Bucket> = Arc::new(house.bucket.clone());
    let pusher = Pusher::open(bucket, no_store(), vec![house.key.clone()], options(&adopt)).await.unwrap();
    let repairer = Repairer { pusher: &pusher, examiner, progress: Arc::new(Silent) };
    let mended = repairer.mend(&catalog, plans, |_, _| {}).await;
    pusher.close().await;
    mended.into_iter().map(|(plan, mending)| (plan.examined.patient.name(), mending)).collect()
}

/// Asserts that everything was mended, and that a verification finds nothing.
async fn assert_whole(house: &House, mended: &[(String, Mending)], count: usize) {
    assert_eq!(mended.len(), count, "{mended:?}");
    assert!(mended.iter().all(|(_, mending)| matches!(mending, Mending::Mended(_))), "{mended:?}");
    assert_eq!(faults(house).await.1, []);
}

async fn objects(bucket: &MemoryBucket) -> Vec<String> {
    let page = bucket.list("", None, crate::bucket::Depth::Flat).await.unwrap();
    page.objects.into_iter().map(|object| object.key).collect()
}

async fn nar_key(house: &House, name: &str) -> String {
    let catalog = house.catalog().await;
    catalog.nar_object(catalog.nar(id(&catalog, name)).unwrap()).0.to_owned()
}

#[tokio::test]
async fn a_nar_that_is_gone_comes_from_another_bucket_under_a_new_key() {
    let key = key();
    let (house, backup) = (house(&key).await, house(&key).await);
    let gone = nar_key(&house, "middle").await;
    house.delete(&gone).await;
    let mended = repair(&house, &[source(&backup)], &[]).await;
    assert_whole(&house, &mended, 1).await;
    assert!(matches!(&mended[0].1, Mending::Mended(How::NarFrom(_))));
    assert_ne!(nar_key(&house, "middle").await, gone);
}

#[tokio::test]
async fn a_nar_with_other_contents_is_replaced_and_its_key_is_not_written_again() {
    let key = key();
    let (house, backup) = (house(&key).await, house(&key).await);
    let bad = nar_key(&house, "base").await;
    let garbage = zstd::encode_all(&*nar("other"), 1).unwrap();
    house.put(&bad, garbage.clone()).await;
    let mended = repair(&house, &[source(&backup)], &[]).await;
    assert_whole(&house, &mended, 1).await;
    assert_eq!(house.bucket_bytes(&bad).await, garbage);
}

#[tokio::test]
async fn a_sound_nar_of_the_bucket_is_named_and_nothing_is_sent() {
    let house = house(&key()).await;
    let gone = nar_key(&house, "top").await;
    let (hash, compression) = object_keys::parse_nar(&gone).unwrap();
    let bytes = house.bucket_bytes(&gone).await;
    let (bad, good) = (
        object_keys::nar(&hash, "0000000000000000", compression),
        object_keys::nar(&hash, "1111111111111111", compression),
    );
    house.put(&bad, zstd::encode_all(&*nar("xxx"), 1).unwrap()).await;
    house.put(&good, bytes).await;
    house.delete(&gone).await;
    let before = objects(&house.bucket).await;
    let mended = repair(&house, &[], &[]).await;
    assert_whole(&house, &mended, 1).await;
    assert_eq!(mended[0].1, Mending::Mended(How::NarInBucket(good.clone())));
    assert_eq!(nar_key(&house, "top").await, good);
    assert_eq!(objects(&house.bucket).await, before);
}

#[tokio::test]
async fn a_wrong_file_hash_or_a_url_that_leads_elsewhere_is_corrected_in_place() {
    let house = house(&key()).await;
    let sound = nar_key(&house, "base").await;
    let text = String::from_utf8(house.bucket_bytes(&narinfo("base")).await).unwrap();
    let line = text.lines().find(|line| line.starts_with("FileHash: ")).unwrap();
    let other = format!("FileHash: sha256:1{}", "0".repeat(51));
    house.put(&narinfo("base"), text.replace(line, &other)).await;
    let text = String::from_utf8(house.bucket_bytes(&narinfo("top")).await).unwrap();
    house.put(&narinfo("top"), text.replace("URL: nar/", "URL: https://elsewhere.invalid/nar/")).await;
    let mended = repair(&house, &[], &[]).await;
    assert_whole(&house, &mended, 2).await;
    assert_eq!(nar_key(&house, "base").await, sound);
}

#[tokio::test]
async fn a_missing_or_malformed_narinfo_comes_from_another_bucket_if_a_trusted_key_has_signed_it() {
    let key = key();
    let (house, backup) = (house(&key).await, house(&key).await);
    house.delete(&narinfo("base")).await;
    house.put(&narinfo("top"), "StorePath: what\n").await;
    let mended = repair(&house, &[source(&backup)], &[]).await;
    assert_whole(&house, &mended, 2).await;
    let catalog = house.catalog().await;
    assert_eq!(catalog.signers(id(&catalog, "base")), ["house-1"]);
    assert_eq!(catalog.absent_ids().count(), 0);
}

#[tokio::test]
async fn references_of_a_fetched_path_come_first_also_where_nobody_knew_them() {
    let key = key();
    let (house, backup) = (house(&key).await, house(&key).await);
    for name in ["base", "middle", "top"] {
        house.delete(&narinfo(name)).await;
    }
    house.put(&narinfo("top"), "not a narinfo").await;
    let mended = repair(&house, &[source(&backup)], &[]).await;
    assert_whole(&house, &mended, 1).await;
    assert_eq!(house.catalog().await.paths(), 3);
}

#[tokio::test]
async fn what_no_trusted_key_has_signed_elsewhere_is_not_taken() {
    let house = house(&key()).await;
    // The other bucket belongs to somebody else, whose key has the same name.
    let theirs = self::house(&key()).await;
    house.delete(&narinfo("base")).await;
    house.put(&narinfo("top"), "not a narinfo").await;
    let mended = repair(&house, &[source(&theirs)], &[]).await;
    assert_eq!(mended.len(), 2);
    assert!(mended.iter().all(|(_, mending)| matches!(mending, Mending::Left(_))), "{mended:?}");
    assert_eq!(house.bucket_bytes(&narinfo("top")).await, b"not a narinfo");
}

#[tokio::test]
async fn bytes_from_anybody_are_good_if_our_narinfo_vouches_for_their_hash_and_wrong_bytes_never_are() {
    let key = key();
    let (house, theirs) = (house(&key).await, house(&self::key()).await);
    house.delete(&nar_key(&house, "top").await).await;
    house.delete(&nar_key(&house, "base").await).await;
    theirs.put(&nar_key(&theirs, "base").await, zstd::encode_all(&*nar("evil"), 1).unwrap()).await;
    let (before, narinfo_before) = (objects(&house.bucket).await, house.bucket_bytes(&narinfo("base")).await);
    let mended = repair(&house, &[source(&theirs)], &[]).await;
    for (name, mending) in &mended {
        assert_eq!(matches!(mending, Mending::Mended(How::NarFrom(_))), name.ends_with("top"), "{mending:?}");
    }
    assert_eq!(mended.len(), 2);
    assert_eq!(house.bucket_bytes(&narinfo("base")).await, narinfo_before);
    assert_eq!(objects(&house.bucket).await.len(), before.len() + 1, "only the NAR of `top` is new");
}

#[tokio::test]
async fn a_cache_that_does_not_answer_keeps_no_other_from_mending() {
    let key = key();
    let (house, backup) = (house(&key).await, house(&key).await);
    let reader = Arc::new(crate::http::PublicReader::new(None).unwrap());
    // Nobody listens on this port.
    let dead = Source::Cache { url: "http://127.0.0.1:1".into(), reader };
    house.delete(&nar_key(&house, "top").await).await;
    let mended = repair(&house, std::slice::from_ref(&dead), &[]).await;
    let [(_, Mending::Left(reason))] = &mended[..] else { panic!("{mended:?}") };
    assert!(reason.contains("127.0.0.1:1"), "{reason}");
    let mended = repair(&house, &[dead, source(&backup)], &[]).await;
    assert_whole(&house, &mended, 1).await;
}

#[tokio::test]
async fn an_unusable_narinfo_of_another_key_is_replaced_only_if_it_is_adopted() {
    let key = key();
    let (house, backup) = (house(&key).await, house(&key).await);
    let other = SecretKey::generate("other-1").unwrap();
    house.publish_signed("top", &["middle"], &[other]).await;
    let mended = repair(&house, &[source(&backup)], &[]).await;
    let [(_, Mending::Left(reason))] = &mended[..] else { panic!("{mended:?}") };
    assert!(reason.contains("--adopt other-1"), "{reason}");
    let mended = repair(&house, &[source(&backup)], &["other-1"]).await;
    assert_whole(&house, &mended, 1).await;
}

#[tokio::test]
async fn an_interrupted_repair_leaves_no_new_fault_and_the_next_completes() {
    let key = key();
    let (house, backup) = (house(&key).await, house(&key).await);
    house.delete(&nar_key(&house, "top").await).await;
    // The NAR has arrived, and the narinfo still names the old one.
    let hash = crate::upkeep::house::info("top", &[]).nar_hash;
    let arrived = object_keys::new_nar(&hash, Compression::Zstd, "00000000");
    house.put(&arrived, backup.bucket_bytes(&nar_key(&backup, "top").await).await).await;
    let (_, faults) = faults(&house).await;
    assert_eq!(faults.iter().map(|fault| fault.kind).collect::<Vec<_>>(), [Kind::NarMissing]);
    let mended = repair(&house, &[source(&backup)], &[]).await;
    assert_whole(&house, &mended, 1).await;
    assert_eq!(mended[0].1, Mending::Mended(How::NarInBucket(arrived)));
}

#[tokio::test]
async fn what_cannot_be_mended_goes_after_all_that_refers_to_it_and_foreign_paths_stay() {
    let house = house(&key()).await;
    house.publish("alone", &[]).await;
    house.publish("second", &["base"]).await;
    house.put(&narinfo("middle"), "not a narinfo").await;
    let catalog = house.catalog().await;
    let left = HashSet::from([*path("base").digest()]);
    let names = |catalog: &Catalog, taken: &TakeBack| -> Vec<String> {
        taken.go.iter().map(|id| catalog.name(*id).unwrap_or("?").to_owned()).collect()
    };
    let taken = take_back(&catalog, &left, &["house-1".to_owned()]);
    // The malformed narinfo refers to nothing that anybody can know.
    assert_eq!(names(&catalog, &taken), ["second", "base"]);
    house.publish("middle", &["base"]).await;
    let catalog = house.catalog().await;
    let taken = take_back(&catalog, &left, &["house-1".to_owned()]);
    let order = names(&catalog, &taken);
    let place = |name: &str| order.iter().position(|other| other == name).unwrap();
    assert_eq!(order.len(), 4);
    assert!(
        place("top") < place("middle") && place("middle") < place("base") && place("second") < place("base")
    );
    // Somebody else has signed `top`: it stays, and so do the paths below it.
    let keys = [house.key.clone(), SecretKey::generate("other-1").unwrap()];
    house.publish_signed("top", &["middle"], &keys).await;
    let catalog = house.catalog().await;
    let taken = take_back(&catalog, &left, &["house-1".to_owned()]);
    assert_eq!(names(&catalog, &taken), ["second"]);
    assert_eq!(taken.stay.len(), 3);
}

#[tokio::test]
async fn each_path_is_a_patient_once_with_its_worst_fault() {
    let house = house(&key()).await;
    let catalog = house.catalog().await;
    let name = catalog.basename(id(&catalog, "top"));
    let faults = [
        Fault::new(Kind::FileHash, &*name, ""),
        Fault::new(Kind::Narinfo(FaultKind::Untrusted), &*name, ""),
        Fault::new(Kind::OrphanNar, "nar/x", ""),
        Fault::new(Kind::ReferenceMissing, catalog.basename(id(&catalog, "middle")), ""),
    ];
    let found = patients(&catalog, &faults, &HashSet::new());
    assert_eq!(
        found.iter().map(|patient| (patient.name(), patient.kind)).collect::<Vec<_>>(),
        [(name, Kind::Narinfo(FaultKind::Untrusted))]
    );
}
