use std::collections::HashSet;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::*;
use crate::bucket::Bucket;
use crate::format::object_keys::{CACHE_INFO, FORMAT};
use crate::format::summary::FaultKind;
use crate::upkeep::house::{self, House};

const DAYS: Duration = Duration::from_secs(3 * 24 * 3600);

/// The faults of a house, as kind and object.
async fn faults(house: &House) -> Vec<(Kind, String)> {
    let catalog = house.catalog().await;
    let unfinished = house.bucket.unfinished("nar/").await.unwrap();
    let mut faults = read_frame(&house.bucket).await.unwrap().faults;
    faults.extend(structure(&catalog, &HashSet::new()).faults);
    faults.extend(leftovers(&catalog, &unfinished));
    faults.sort_by(|one, other| one.kind.cmp(&other.kind).then(one.object.cmp(&other.object)));
    faults.into_iter().map(|fault| (fault.kind, fault.object)).collect()
}

#[tokio::test]
async fn a_sound_bucket_has_no_faults() {
    let house = House::new().await;
    house.publish("a", &["upstream"]).await;
    house.publish("b", &["a"]).await;
    house.put(&format!("log/{}", house::path("a.drv").to_basename()), "log").await;
    house.put("larder/writers/0123456789abcdfghijklmnp.json", "{}").await;
    assert_eq!(faults(&house).await, []);
}

#[tokio::test]
async fn each_fault_is_found_and_named() {
    let house = House::new().await;
    let missing = house.publish("missing", &[]).await;
    house.delete(&missing).await;
    let cut = house.publish("cut", &[]).await;
    house.put(&cut, "x").await;
    house.publish_signed("stranger", &[], &[]).await;
    house.publish("other", &[]).await;
    let of_other = house.bucket.get(&house::narinfo("other")).await.unwrap().unwrap().body;
    house.put(&house::narinfo("moved"), of_other.clone()).await;
    let elsewhere = String::from_utf8_lossy(&of_other).replace("URL: nar/", "URL: http://x/nar/");
    house.put(&house::narinfo("other"), elsewhere).await;
    house.publish("badly-signed", &[]).await;
    let signed = house.bucket.get(&house::narinfo("badly-signed")).await.unwrap().unwrap().body;
    house
        .put(&house::narinfo("badly-signed"), format!("{}Sig: x:y\n", String::from_utf8_lossy(&signed)))
        .await;
    house.put(&house::narinfo("rubbish"), "rubbish").await;
    let orphans = ["nar/orphan.nar.xz", "log/x.drv", "larder/writers/0123456789abcdfghijklmnp.json"];
    let listing = house::narinfo("gone").replace(".narinfo", ".ls");
    for key in orphans.iter().copied().chain([&*listing, "index.html"]) {
        house.put(key, "x").await;
        house.bucket.make_older(key, DAYS);
    }
    let realised =
        |name: &str| format!(r#"{{"outPath":"{}","signatures":[]}}"#, house::path(name).to_basename());
    house.put("realisations/sha256:00!out.doi", realised("badly-signed")).await;
    house.put("realisations/sha256:01!out.doi", realised("gone")).await;
    house.put("build-trace-v2/x.drv/out.doi", "{}").await;
    house.bucket.make_older("realisations/sha256:01!out.doi", DAYS);
    // A young NAR waits for its narinfo.
    house.put("nar/young.nar.xz", "x").await;
    house.delete(FORMAT).await;
    house.put(CACHE_INFO, "Priority: x").await;
    let path = |name: &str| house::path(name).to_basename();
    let hash = |name: &str| path(name)[..32].to_owned();
    // The NAR of `other` has no narinfo any more, but it is young.
    let expected = vec![
        (Kind::CacheInfo, CACHE_INFO.to_owned()),
        (Kind::Marker, FORMAT.to_owned()),
        (Kind::Narinfo(FaultKind::Malformed), hash("rubbish")),
        (Kind::Narinfo(FaultKind::OtherPath), hash("moved")),
        (Kind::Narinfo(FaultKind::UnfitNar), path("other")),
        (Kind::Narinfo(FaultKind::MalformedSignature), path("badly-signed")),
        (Kind::Narinfo(FaultKind::Untrusted), path("stranger")),
        (Kind::NarMissing, path("missing")),
        (Kind::NarSize, path("cut")),
        (Kind::RealisationMalformed, "build-trace-v2/x.drv/out.doi".to_owned()),
        (Kind::OrphanNar, "nar/orphan.nar.xz".to_owned()),
        (Kind::OrphanListing, listing),
        (Kind::OrphanLog, "log/x.drv".to_owned()),
        (Kind::OrphanRealisation, "realisations/sha256:01!out.doi".to_owned()),
        (Kind::DeadWriter, orphans[2].to_owned()),
        (Kind::UnknownObject, "index.html".to_owned()),
    ];
    assert_eq!(faults(&house).await, expected);
}

#[tokio::test]
async fn the_paths_above_a_faulty_path_are_counted_once() {
    let house = House::new().await;
    for (name, references) in
        [("a", vec![]), ("b", vec!["a"]), ("c", vec!["b", "a"]), ("d", vec!["upstream"])]
    {
        house.publish(name, &references).await;
    }
    let nar = house.publish("a", &[]).await;
    house.delete(&nar).await;
    let catalog = house.catalog().await;
    let found = structure(&catalog, &HashSet::new());
    assert_eq!((found.faults.len(), found.faults[0].affected, found.affected), (1, 2, 2));
    // The reference of `d` should be upstream's, until somebody knows better.
    assert_eq!(found.left_out.len(), 1);
    let found = structure(&catalog, &found.left_out.into_iter().collect());
    let missing: Vec<_> = found.faults.iter().filter(|fault| fault.kind == Kind::ReferenceMissing).collect();
    assert_eq!(
        missing.iter().map(|fault| &*fault.object).collect::<Vec<_>>(),
        [house::path("d").to_basename()]
    );
}

/// The faults that the contents of all NARs have, as kind and object, in order.
async fn contents(house: &House) -> Vec<(Kind, String)> {
    let catalog = house.catalog().await;
    let mut faults = Vec::new();
    let wanted = Portion::All.of(&catalog, None, 0, 0);
    read_contents(&house.bucket, &catalog, wanted, None, |nar| faults.extend(nar.faults.unwrap())).await;
    faults.sort_by(|one, other| one.kind.cmp(&other.kind).then(one.object.cmp(&other.object)));
    faults.into_iter().map(|fault| (fault.kind, fault.object)).collect()
}

#[tokio::test]
async fn other_contents_of_a_nar_are_found_although_sizes_fit() {
    let house = House::new().await;
    for name in ["sound", "flipped", "swapped", "file-hash"] {
        house.publish(name, &[]).await;
    }
    assert_eq!(contents(&house).await, []);
    let catalog = house.catalog().await;
    let key = |name: &str| {
        let nar = catalog.nar(house::id(&catalog, name)).unwrap();
        catalog.nar_object(nar).0.to_owned()
    };
    let mut flipped = house.bucket.get(&key("flipped")).await.unwrap().unwrap().body.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    house.put(&key("flipped"), flipped).await;
    // As long as the object before, and a NAR of the same length.
    let compressed = |name: &str| zstd::encode_all(&*house::nar(name), 1).unwrap();
    let length = compressed("swapped").len();
    let others = ('e'..='z').map(|last| compressed(&format!("swappe{last}")));
    let other = others.into_iter().find(|other| other.len() == length).unwrap();
    house.put(&key("swapped"), other).await;
    let narinfo = house.bucket.get(&house::narinfo("file-hash")).await.unwrap().unwrap().body;
    let hash = Sha256::digest("other");
    let text = String::from_utf8_lossy(&narinfo);
    let line = text.lines().find(|line| line.starts_with("FileHash: ")).unwrap();
    let other = format!("FileHash: sha256:{}", nix_derivation::nixbase32::encode(&hash));
    house.put(&house::narinfo("file-hash"), text.replace(line, &other)).await;
    let path = |name: &str| house::path(name).to_basename();
    let expected = [
        (Kind::NarContents, path("flipped")),
        (Kind::NarContents, path("swapped")),
        (Kind::FileHash, path("file-hash")),
    ];
    let mut expected = expected.to_vec();
    expected.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.cmp(&other.1)));
    assert_eq!(contents(&house).await, expected);
}

#[tokio::test]
async fn an_interrupted_reading_goes_on_and_a_changed_object_is_read_again() {
    let (house, cache) = (House::new().await, tempfile::tempdir().unwrap());
    let keys = [house.publish("a", &[]).await, house.publish("b", &[]).await];
    let catalog = house.catalog().await;
    let nars = Portion::All.of(&catalog, None, 0, 0);
    let open = || Resume::open(cache.path(), "memory:", "all", &catalog, 1_000_000);
    let mut resume = open();
    nars.iter().for_each(|nar| resume.add(&catalog, *nar));
    drop(resume);
    assert!(nars.iter().all(|nar| open().has(&catalog, *nar)));
    assert!(
        !nars
            .iter()
            .any(|nar| Resume::open(cache.path(), "elsewhere:", "all", &catalog, 1_000_000)
                .has(&catalog, *nar))
    );
    house.put(&keys[0], "other").await;
    let changed = house.catalog().await;
    let known: Vec<_> =
        nars.iter().filter(|nar| open().has(&changed, **nar)).map(|nar| changed.nar_object(*nar).0).collect();
    assert_eq!(known, [&keys[1]]);
    // However much is added to it, a record of last week does not count.
    let later = Resume::open(cache.path(), "memory:", "all", &catalog, 1_000_000 + 8 * 24 * 3600);
    assert!(!nars.iter().any(|nar| later.has(&catalog, *nar)));
    let mut resume = open();
    nars.iter().for_each(|nar| resume.add(&catalog, *nar));
    drop(resume);
    // Another narinfo names the same object, and says something else of it.
    let text = house.bucket.get(&house::narinfo("b")).await.unwrap().unwrap().body;
    let text = String::from_utf8_lossy(&text).replace("FileHash: sha256:", "FileHash: sha256:0");
    let (start, rest) = text.split_once("FileHash: sha256:0").unwrap();
    let other = format!("{start}FileHash: sha256:{}\n{}", "0".repeat(52), rest.split_once('\n').unwrap().1);
    house.put(&house::narinfo("b"), other).await;
    let claimed = house.catalog().await;
    let resume = Resume::open(cache.path(), "memory:", "all", &claimed, 1_000_000);
    assert!(!resume.has(&claimed, claimed.nar(house::id(&claimed, "b")).unwrap()));
    open().finish();
    assert!(!nars.iter().any(|nar| open().has(&catalog, *nar)));
}
