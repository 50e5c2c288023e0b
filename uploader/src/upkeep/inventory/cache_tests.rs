use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::upkeep::house::{self, House, id};
use crate::upkeep::inventory::{Catalog, take};

/// Counts what the cache knew.
struct Counting {
    cache: Cache,
    known: usize,
    read: usize,
}

impl Records for Counting {
    fn get(&mut self, digest: &[u8; 20], object: &Object) -> Option<Record> {
        let record = self.cache.get(digest, object);
        self.known += usize::from(record.is_some());
        record
    }

    fn put(&mut self, digest: &[u8; 20], object: &Object, record: &Record) {
        self.read += 1;
        self.cache.put(digest, object, record);
    }

    fn keep_only(&mut self, paths: usize, is_listed: &dyn Fn(&[u8; 20]) -> bool) {
        self.cache.keep_only(paths, is_listed);
    }
}

/// The catalog of a bucket with the cache of a directory; the number of narinfos that the cache knew, and that were read.
async fn look(house: &House, directory: &Path) -> (Catalog, usize, usize) {
    let cache = Cache::open(directory, "memory:", &house.options()).unwrap();
    let mut counting = Counting { cache, known: 0, read: 0 };
    let catalog = take(&house.bucket, &house.options(), &mut counting, &|_, _| {}).await.unwrap();
    (catalog, counting.known, counting.read)
}

fn only_file(directory: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[tokio::test]
async fn a_second_run_reads_only_what_is_new() {
    let (house, directory) = (House::new().await, tempfile::tempdir().unwrap());
    for number in 0..150 {
        house.publish(&format!("old-{number}"), &["x"]).await;
    }
    let (first, known, read) = look(&house, directory.path()).await;
    assert_eq!((first.paths(), known, read), (150, 0, 150));
    for number in 0..100 {
        house.publish(&format!("new-{number}"), &["old-0"]).await;
    }
    let (second, known, read) = look(&house, directory.path()).await;
    assert_eq!((second.paths(), known, read), (250, 150, 100));
    let (a, b) = (id(&first, "old-7"), id(&second, "old-7"));
    assert_eq!((first.path(a), first.nar_size(a)), (second.path(b), second.nar_size(b)));
    assert_eq!((first.signers(a), first.deriver(a)), (second.signers(b), second.deriver(b)));
    assert_eq!(first.named_nar(a), second.named_nar(b));
    assert_eq!(second.present_references(id(&second, "new-5")).collect::<Vec<_>>(), [id(&second, "old-0")]);
    assert_eq!(second.absent_ids().count(), 1);
}

#[tokio::test]
async fn a_record_of_another_object_hides_no_fault() {
    let (house, directory) = (House::new().await, tempfile::tempdir().unwrap());
    for name in ["a", "b", "c", "d"] {
        house.publish(name, &[]).await;
    }
    let sound = house.bucket_bytes(&house::narinfo("a")).await;
    let (first, ..) = look(&house, directory.path()).await;
    assert!(first.ids().all(|id| first.fault(id).is_none()));
    // The same size, other bytes; another size; the signature gone; the NAR gone, though the narinfo is the same.
    let spoilt = String::from_utf8(sound).unwrap().replace("NarSize: ", "NarSiez: ");
    house.put(&house::narinfo("a"), spoilt).await;
    house.put(&house::narinfo("b"), "x").await;
    house.publish_signed("c", &[], &[]).await;
    let nar = first.named_nar(id(&first, "d")).unwrap().key;
    house.delete(&nar).await;
    let (second, known, _) = look(&house, directory.path()).await;
    assert_eq!(known, 1);
    for name in ["a", "b", "c", "d"] {
        assert!(second.fault(id(&second, name)).is_some(), "{name}");
    }
    // A fault is kept, too, and ends with the object.
    house.publish("a", &[]).await;
    let (third, ..) = look(&house, directory.path()).await;
    assert!(third.fault(id(&third, "a")).is_none() && third.fault(id(&third, "b")).is_some());
}

#[tokio::test]
async fn a_wrong_record_under_the_same_key_is_not_believed() {
    let (house, directory) = (House::new().await, tempfile::tempdir().unwrap());
    house.publish_signed("a", &[], &[]).await;
    let (catalog, ..) = look(&house, directory.path()).await;
    let object = *catalog.narinfo(id(&catalog, "a"));
    let digest = *house::path("a").digest();
    let mut cache = Cache::open(directory.path(), "memory:", &house.options()).unwrap();
    let sound = Record::default();
    // The same tag with another size, and the same size with another tag.
    let tag = object.tag.unwrap();
    for wrong in [
        Object::read(object.size + 1, Some(tag)),
        Object::read(object.size, Some(super::super::Tag([0; 12]))),
    ] {
        cache.put(&digest, &wrong, &sound);
        assert_eq!(cache.get(&digest, &object), None);
        assert_eq!(cache.get(&digest, &wrong), Some(sound.clone()));
        assert_eq!(cache.get(&digest, &Object::read(object.size, None)), None);
    }
    drop(cache);
    let (again, known, _) = look(&house, directory.path()).await;
    assert_eq!(known, 0);
    assert!(again.fault(id(&again, "a")).is_some());
}

#[tokio::test]
async fn a_damaged_file_is_thrown_away() {
    let (house, directory) = (House::new().await, tempfile::tempdir().unwrap());
    for number in 0..40 {
        house.publish(&format!("p{number}"), &["x"]).await;
    }
    look(&house, directory.path()).await;
    let file = only_file(directory.path());
    let sound = fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut cases = vec![b"no database".to_vec(), vec![0; 8192], sound[..sound.len() / 2].to_vec()];
    // A bit in every page.
    for page in (0..sound.len()).step_by(4096) {
        let mut damaged = sound.clone();
        damaged[page + 1031 % (sound.len() - page)] ^= 4;
        cases.push(damaged);
    }
    for (number, damaged) in cases.iter().enumerate() {
        fs::write(&file, damaged).unwrap();
        let (catalog, known, read) = look(&house, directory.path()).await;
        assert_eq!(known + read, 40, "case {number}");
        assert!(known == 0 || known == 40, "case {number}: {known}");
        assert!(number > 2 || known == 0, "case {number}");
        assert!(catalog.ids().all(|id| catalog.fault(id).is_none()), "case {number}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(look(&house, directory.path()).await.1, 0, "others could have written the file");
}

#[tokio::test]
async fn one_process_uses_a_file_and_each_trust_has_its_own() {
    let (house, directory) = (House::new().await, tempfile::tempdir().unwrap());
    house.publish("a", &[]).await;
    look(&house, directory.path()).await;
    let cache = Cache::open(directory.path(), "memory:", &house.options()).unwrap();
    let error = Cache::open(directory.path(), "memory:", &house.options()).unwrap_err();
    assert!(format!("{error:?}").contains("another larder"), "{error:?}");
    drop(cache);
    // Without the key, the path is not trusted, whatever was judged before.
    let options = Options { trusted: Vec::new(), ..house.options() };
    let mut cache = Cache::open(directory.path(), "memory:", &options).unwrap();
    let catalog = take(&house.bucket, &options, &mut cache, &|_, _| {}).await.unwrap();
    assert!(catalog.fault(id(&catalog, "a")).is_some());
    drop(cache);
    assert_eq!(look(&house, directory.path()).await.1, 1);
    let other = Cache::open(directory.path(), "other:", &house.options()).unwrap();
    assert_eq!((other.table.len().unwrap(), fs::read_dir(directory.path()).unwrap().count()), (0, 3));
}

#[tokio::test]
async fn a_file_does_not_grow_with_paths_that_are_gone() {
    let (house, directory) = (House::new().await, tempfile::tempdir().unwrap());
    house.publish("a", &[]).await;
    let (catalog, ..) = look(&house, directory.path()).await;
    let object = *catalog.narinfo(id(&catalog, "a"));
    let mut cache = Cache::open(directory.path(), "memory:", &house.options()).unwrap();
    for number in 0..20_000_u32 {
        let mut digest = [0; 20];
        digest[..4].copy_from_slice(&number.to_le_bytes());
        cache.put(&digest, &object, &Record::default());
    }
    drop(cache);
    let (_, known, _) = look(&house, directory.path()).await;
    let cache = Cache::open(directory.path(), "memory:", &house.options()).unwrap();
    assert_eq!((known, cache.table.len().unwrap()), (1, 1));
}

#[test]
fn old_files_of_other_buckets_go() {
    let directory = tempfile::tempdir().unwrap();
    let old = SystemTime::now() - UNUSED * 2;
    for name in ["inventory-0.redb", "inventory-1.redb", "other.redb"] {
        File::create(directory.path().join(name)).unwrap().set_modified(old).unwrap();
    }
    remove_unused(directory.path(), &directory.path().join("inventory-1.redb"));
    let mut left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["inventory-1.redb", "other.redb"]);
}

#[test]
fn the_directory_is_that_of_the_service_or_of_the_user() {
    let environment = |pairs: &'static [(&str, &str)]| {
        cache_directory(move |name| {
            pairs.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        })
    };
    for (pairs, expected) in [
        (
            &[("CACHE_DIRECTORY", "/var/cache/larder:/x"), ("HOME", "/root")] as &'static [_],
            Some("/var/cache/larder"),
        ),
        (&[("XDG_CACHE_HOME", "/c"), ("HOME", "/root")], Some("/c/larder")),
        (&[("XDG_CACHE_HOME", "relative"), ("HOME", "/root")], Some("/root/.cache/larder")),
        (&[], None),
    ] {
        assert_eq!(environment(pairs), expected.map(PathBuf::from), "{pairs:?}");
    }
}
