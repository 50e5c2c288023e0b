use crate::base::error::Retry;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::bucket::conformance::{self, Traits};

fn bucket() -> (tempfile::TempDir, Arc<DirectoryBucket>) {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = Arc::new(DirectoryBucket::new(dir.path().join("cache")));
    (dir, bucket)
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let (_dir, bucket) = bucket();
    conformance::run(bucket, Traits::default()).await.expect("conformance");
}

#[tokio::test]
async fn a_missing_root_is_no_missing_object() {
    let (_dir, bucket) = bucket();
    assert!(!bucket.exists().await.expect("exists"));
    assert!(bucket.get("a").await.is_err());
    assert!(bucket.head("a/b").await.is_err());
    assert!(bucket.delete("a").await.is_err());
    assert!(bucket.list("", None, Depth::Flat).await.is_err());
    assert!(bucket.list("a/b", None, Depth::Flat).await.is_err());
    assert!(bucket.put("a", Body::default(), ContentType::Text, Condition::None).await.is_err());
}

#[tokio::test]
async fn a_web_server_can_read() {
    let (_dir, bucket) = bucket();
    bucket.create().await.expect("create");
    bucket.put("a/b/c", "x".into(), ContentType::Text, Condition::IfAbsent).await.expect("put");
    let upload = bucket.start_multipart("d/e", ContentType::Nar).await.expect("start");
    upload.part(1, "x".into()).await.expect("part");
    upload.complete().await.expect("complete");
    let root = bucket.files.root();
    for (path, mode) in [("", 0o755), ("a", 0o755), ("a/b", 0o755), ("a/b/c", 0o644), ("d/e", 0o644)] {
        let found = fs::metadata(root.join(path)).expect(path).permissions().mode();
        assert_eq!(found & 0o7777, mode, "{path}");
    }
}

#[tokio::test]
async fn nothing_unfinished_stays_or_is_listed() {
    let (_dir, bucket) = bucket();
    bucket.create().await.expect("create");
    let upload = bucket.start_multipart("k", ContentType::Nar).await.expect("start");
    upload.part(2, "x".into()).await.expect("part");
    upload.part(1, "y".into()).await.expect("part");
    upload.part(4, "z".into()).await.expect("part");
    assert_eq!(bucket.list("", None, Depth::Flat).await.expect("list"), ListPage::default());
    assert_eq!(bucket.list("", None, Depth::OneLevel).await.expect("list"), ListPage::default());
    assert_eq!(upload.complete().await.expect_err("a gap").retry(), Retry::Permanent);
    assert!(bucket.get(".larder-tmp/lock").await.is_err());
    bucket.put("k", Body::default(), ContentType::Text, Condition::None).await.expect("put");
    drop(bucket.start_multipart("k", ContentType::Nar).await.expect("start"));
    let left: Vec<_> = fs::read_dir(bucket.files.path(TEMPORARY))
        .expect("read_dir")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(left, ["lock"]);
}

#[tokio::test]
async fn a_key_cannot_be_a_folder_too() {
    let (_dir, bucket) = bucket();
    bucket.create().await.expect("create");
    let put = |key: &'static str| bucket.put(key, Body::default(), ContentType::Text, Condition::None);
    put("a/b").await.expect("put");
    assert_eq!(put("a").await.expect_err("a folder").retry(), Retry::Permanent);
    assert_eq!(put("a/b/c").await.expect_err("a file").retry(), Retry::Permanent);
    assert_eq!(bucket.get("a").await.expect("get"), None);
    assert_eq!(bucket.get("a/b/c").await.expect("get"), None);
    bucket.delete("a").await.expect("delete");
    assert!(bucket.get("a/b").await.expect("get").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_wins() {
    let (_dir, bucket) = bucket();
    bucket.create().await.expect("create");
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16 {
        let bucket = Arc::clone(&bucket);
        tasks.spawn(async move {
            bucket.put("k", format!("{task}").into(), ContentType::Text, Condition::IfAbsent).await
        });
    }
    let ends: Vec<Put> = tasks.join_all().await.into_iter().map(|end| end.expect("put")).collect();
    assert_eq!(ends.iter().filter(|end| **end == Put::Written).count(), 1);
}

/// A fence that holds each attempt up until it may go on, or refuses it.
#[derive(Debug)]
struct Gate {
    asked: std::sync::mpsc::Sender<()>,
    answers: std::sync::Mutex<std::sync::mpsc::Receiver<bool>>,
}

impl Fence for Gate {
    fn pass(&self) -> Result<u64> {
        self.asked.send(()).expect("asked");
        let goes_on = self.answers.lock().expect("lock").recv().expect("an answer");
        goes_on.then_some(1).ok_or_else(|| Error::transient(Area::General, "it is over"))
    }

    fn answered(&self, _: u64) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_waits_for_a_change_that_was_permitted() {
    let (dir, bucket) = bucket();
    bucket.create().await.expect("create");
    bucket.put("k", "old".into(), ContentType::Text, Condition::None).await.expect("put");
    let from = bucket.origin(&bucket.head("k").await.expect("head").expect("k")).expect("an origin");
    let (asked, asks) = std::sync::mpsc::channel();
    let (answer, answers) = std::sync::mpsc::channel();
    let fenced = bucket.clone().fenced(Arc::new(Gate { asked, answers: answers.into() }));
    // Another process has a lock file of its own.
    let observer = DirectoryBucket::new(dir.path().join("cache"));
    for (number, goes_on) in [true, false, true, false, true, false].into_iter().enumerate() {
        let (fenced, from) = (fenced.clone(), from.clone());
        let change = tokio::spawn(async move {
            match number {
                0 | 1 => fenced.put("a", "new".into(), ContentType::Text, Condition::None).await.map(drop),
                2 | 3 => fenced.copy(&from, "b", ContentType::Text).await.map(drop),
                _ => fenced.delete("a").await,
            }
        });
        asks.recv().expect("a question");
        let wait = std::time::Duration::from_millis(100);
        assert!(tokio::time::timeout(wait, observer.barrier()).await.is_err(), "{number}");
        answer.send(goes_on).expect("an answer");
        assert_eq!(change.await.expect("change").is_ok(), goes_on, "{number}");
        observer.barrier().await.expect("barrier");
    }
    let listed = bucket.list("", None, Depth::Flat).await.expect("list").objects;
    assert_eq!(listed.iter().map(|object| &*object.key).collect::<Vec<_>>(), ["b", "k"]);
    let left = fs::read_dir(bucket.files.path(TEMPORARY)).expect("read_dir").count();
    assert_eq!(left, 1, "only the lock");
}

#[tokio::test]
async fn a_copy_does_not_change_with_its_origin() {
    let (dir, bucket) = bucket();
    bucket.create().await.expect("create");
    bucket.put("pr/a", "one".into(), ContentType::Text, Condition::None).await.expect("put");
    let staged = DirectoryBucket::new(dir.path().join("cache/pr"));
    let from = staged.origin(&staged.head("a").await.expect("head").expect("a")).expect("an origin");
    assert_eq!(bucket.copy(&from, "a", ContentType::Text).await.expect("copy"), Copied::Done);
    fs::write(bucket.files.path("pr/a"), "two").expect("write");
    assert_eq!(bucket.get("a").await.expect("get").expect("a").body, "one");
    assert_eq!(bucket.copy(&from, "a", ContentType::Text).await.expect("copy"), Copied::Gone);
    fs::remove_dir_all(bucket.files.root()).expect("remove");
    assert!(bucket.copy(&from, "a", ContentType::Text).await.is_err(), "a directory that is not mounted");
}
