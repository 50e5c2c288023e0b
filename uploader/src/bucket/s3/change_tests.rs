//! Tests of fences, deletions of many objects, copies and versions.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::base::error::Error;

/// Counts what it is asked and told.
#[derive(Debug, Default)]
struct Counting {
    passed: Mutex<u64>,
    answered: Mutex<Vec<u64>>,
    refuses: AtomicBool,
}

impl Counting {
    fn counts(&self) -> (u64, Vec<u64>) {
        (*self.passed.lock().expect("passed"), self.answered.lock().expect("answered").clone())
    }
}

impl Fence for Counting {
    fn pass(&self) -> Result<u64> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Error::transient(Area::General, "cannot go on").because("it is over"));
        }
        let mut passed = self.passed.lock().expect("passed");
        *passed += 1;
        Ok(*passed)
    }

    fn answered(&self, attempt: u64) {
        self.answered.lock().expect("answered").push(attempt);
    }
}

async fn fenced(
    answers: Vec<String>,
) -> (tempfile::TempDir, Scripted, Arc<S3Bucket>, Arc<dyn Bucket>, Arc<Counting>) {
    let (dir, server, bucket) = scripted(answers).await;
    let (fence, plain) = (Arc::new(Counting::default()), Arc::new(bucket));
    let bucket = plain.clone().fenced(fence.clone());
    (dir, server, plain, bucket, fence)
}

fn done() -> String {
    reply("200 OK", "", "")
}

#[tokio::test]
async fn each_attempt_asks_the_fence() {
    let busy = fault("503 Service Unavailable", "SlowDown");
    let (_dir, server, _, bucket, fence) = fenced(vec![busy, done()]).await;
    bucket.put("a", body("x"), ContentType::Json, Condition::None).await.expect("put");
    assert_eq!((fence.counts(), server.seen().len()), ((2, vec![1, 2]), 2));

    // After these answers, the request may still be carried out.
    let failing = fault("500 Internal Server Error", "InternalError");
    let (_dir, _server, _, bucket, fence) = fenced(vec![failing, String::new(), done()]).await;
    bucket.delete("a").await.expect("delete");
    assert_eq!(fence.counts(), (3, vec![3]));

    let (_dir, _server, _, bucket, fence) = fenced(vec![fault("403 Forbidden", "AccessDenied")]).await;
    bucket.delete_many(&["a".into(), "b".into()]).await.expect_err("a refusal");
    assert_eq!(fence.counts(), (1, vec![1]));
}

#[tokio::test]
async fn what_a_fence_refuses_is_not_sent() {
    let (_dir, server, plain, bucket, fence) = fenced(vec![done()]).await;
    fence.refuses.store(true, Ordering::Relaxed);
    let error = bucket.put("a", body("x"), ContentType::Json, Condition::None).await.expect_err("a refusal");
    assert_eq!((error.area(), error.retry()), (Area::General, Retry::Transient), "{error}");
    assert!(error.to_string().contains("it is over"), "{error}");
    assert!(bucket.delete("a").await.is_err());
    assert!(bucket.delete_many(&["a".into(), "b".into()]).await.is_err());
    assert!(bucket.delete_version("a", "1").await.is_err());
    assert!(bucket.copy(&origin(&*plain, 1), "b", ContentType::Nar).await.is_err());
    assert!(server.seen().is_empty(), "{:?}", server.seen());
}

#[tokio::test]
async fn reads_and_uploads_in_parts_do_not_ask_the_fence() {
    let complete = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>";
    let (_dir, _server, _, bucket, fence) = fenced(upload_with(&[reply("200 OK", "", complete)])).await;
    fence.refuses.store(true, Ordering::Relaxed);
    let upload = bucket.start_multipart("nar/x", ContentType::Nar).await.expect("start");
    upload.part(1, body("x")).await.expect("part");
    upload.complete().await.expect("complete");
    bucket.get("a").await.expect("get");
}

#[tokio::test]
async fn an_attempt_without_an_answer_stays_open() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = at(listener.local_addr().expect("address").port(), dir.path(), 1).await;
    let fence = Arc::new(Counting::default());
    let bucket = Arc::new(bucket).fenced(fence.clone());
    let delete = tokio::time::timeout(Duration::from_millis(500), bucket.delete("a")).await;
    assert!(delete.is_err(), "{delete:?}");
    assert_eq!(fence.counts(), (1, vec![]));
}

/// A bucket with a fence on a server of which nothing is known.
async fn unknown(answers: Vec<String>) -> (tempfile::TempDir, Scripted, Arc<dyn Bucket>) {
    let dir = tempfile::tempdir().expect("tempdir");
    let server = Scripted::start(answers).await;
    let bucket = Arc::new(at_with(server.port, dir.path(), Options::default()).await);
    (dir, server, bucket.fenced(Arc::new(Counting::default())))
}

fn is_in_query(head: &str) -> bool {
    let (query, header) = (head.contains("&x-amz-expires=900&"), head.contains("\nauthorization: "));
    assert_ne!(query, header, "{head}");
    query
}

#[tokio::test]
async fn changes_expire_where_the_server_takes_old_signatures() {
    let skewed = || fault("403 Forbidden", "RequestTimeTooSkewed");
    let denied = || fault("403 Forbidden", "AccessDenied");
    for (answers, in_query) in [
        (vec![skewed()], false),
        (vec![done()], true),
        (vec![denied(), denied()], true),
        (vec![denied(), done()], false),
    ] {
        let questions = answers.len();
        let (_dir, server, bucket) = unknown([answers, vec![done()]].concat()).await;
        bucket.put("a", body("x"), ContentType::Json, Condition::IfAbsent).await.expect("put");
        bucket.delete("b").await.expect("delete");
        bucket.get("a").await.expect("get");
        let seen: Vec<String> = server.seen().iter().map(|head| head.to_lowercase()).collect();
        assert_eq!(seen.len(), questions + 3, "{seen:?}");
        assert!(seen[0].starts_with("get /cache/?list-type=2&max-keys=1 "), "{seen:?}");
        assert!(seen[questions].contains("if-none-match"), "{seen:?}");
        assert_eq!(seen[questions].contains("content-md5: ndtkysamgdt1yfzofvxnpg=="), in_query, "{seen:?}");
        let found: Vec<bool> = seen[questions..].iter().map(|head| is_in_query(head)).collect();
        assert_eq!(found, [in_query, in_query, false], "{seen:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_say_is_asked_again() {
    let busy = fault("503 Service Unavailable", "SlowDown");
    let skewed = fault("403 Forbidden", "RequestTimeTooSkewed");
    let (_dir, server, bucket) = unknown(vec![busy, done(), skewed, done()]).await;
    bucket.delete("a").await.expect("delete");
    bucket.delete("a").await.expect("delete");
    let seen: Vec<String> = server.seen().iter().map(|head| head.to_lowercase()).collect();
    let found: Vec<bool> = seen.iter().map(|head| is_in_query(head)).collect();
    assert_eq!(found, [false, true, false, false], "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_signatures_that_expire() {
    let dir = tempfile::tempdir().expect("tempdir");
    let root = dir.path().join("root");
    std::fs::create_dir(&root).expect("root");
    let options = Options { expiring_signatures: Some(true), copied_at_once: 5 << 20, ..Options::default() };
    let bucket = at_with(serve(&root).await, dir.path(), options).await;
    let fence = Arc::new(Counting::default());
    let bucket = Arc::new(bucket).fenced(fence.clone());
    let traits = Traits { folders_are_missing: false, ..Traits::default() };
    conformance::run(bucket, traits).await.expect("conformance");
    let (passed, answered) = fence.counts();
    assert!(passed > 1000 && answered.len() as u64 == passed);
}

fn keys(number: usize) -> Vec<String> {
    (0..number).map(|number| format!("a{number}")).collect()
}

#[tokio::test]
async fn many_objects_go_with_few_requests() {
    let (_dir, server, bucket) = scripted(vec![reply("200 OK", "", "<DeleteResult/>")]).await;
    bucket.delete_many(&keys(2001)).await.expect("delete");
    let seen: Vec<String> = server.seen().iter().map(|head| head.to_lowercase()).collect();
    assert_eq!(seen.len(), 3);
    for head in &seen {
        assert!(head.starts_with("post /cache/?delete= "), "{head}");
        assert!(head.contains("content-md5: "), "{head}");
    }

    let left = "<DeleteResult><Error><Key>pre fix+/a1</Key><Code>AccessDenied</Code></Error>\
        <Error><Key>pre fix+/a2</Key><Code>NoSuchKey</Code></Error></DeleteResult>";
    let (_dir, _server, bucket) = scripted(vec![reply("200 OK", "", left)]).await;
    let error = bucket.delete_many(&keys(3)).await.expect_err("one is left");
    assert!(error.to_string().contains("delete `a1`"), "{error}");

    for unclear in ["", "<html/>", "<DeleteResult>"] {
        let (_dir, _server, bucket) = scripted(vec![reply("200 OK", "", unclear)]).await;
        bucket.delete_many(&keys(3)).await.expect_err(unclear);
    }
}

#[tokio::test]
async fn objects_go_one_by_one_where_the_server_knows_nothing_else() {
    for (status, code) in [
        ("501 Not Implemented", "NotImplemented"),
        ("405 Method Not Allowed", "MethodNotAllowed"),
        ("400 Bad Request", "NotImplemented"),
    ] {
        let (_dir, server, bucket) = scripted(vec![fault(status, code), done()]).await;
        bucket.delete_many(&keys(40)).await.expect(code);
        let seen = server.seen();
        assert!(seen[1..].iter().all(|head| head.starts_with("DELETE /cache/pre%20fix%2B/a")), "{seen:?}");
        assert_eq!(seen.len(), 41);
    }
}

/// Where the object `nar/a +b` of this size is.
fn origin(bucket: &dyn Bucket, size: u64) -> Origin {
    let object = ObjectMeta { key: "nar/a +b".into(), size, etag: Some("\"e\"".into()), age: None };
    bucket.origin(&object).expect("an origin")
}

#[tokio::test]
async fn a_copy_says_where_its_bytes_are() {
    let copied = "<?xml version=\"1.0\"?><CopyObjectResult><ETag>&quot;f&quot;</ETag></CopyObjectResult>";
    let (_dir, server, bucket) = scripted(vec![reply("200 OK", "", copied)]).await;
    let ended = bucket.copy(&origin(&bucket, 1), "nar/b", ContentType::Nar).await.expect("copy");
    assert_eq!(ended, Copied::Done);
    let head = server.seen()[0].to_lowercase();
    assert!(head.starts_with("put /cache/pre%20fix%2b/nar/b "), "{head}");
    for line in [
        "x-amz-copy-source: cache/pre%20fix%2b/nar/a%20%2bb",
        "x-amz-copy-source-if-match: \"e\"",
        "x-amz-metadata-directive: replace",
        "content-type: application/x-nix-nar",
        "content-length: 0",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
}

#[tokio::test]
async fn only_an_answer_that_says_so_is_a_copy() {
    let failed = "<Error><Code>InternalError</Code></Error>";
    for (answer, ended) in [
        (fault("404 Not Found", "NoSuchKey"), Ok(Copied::Gone)),
        (fault("412 Precondition Failed", "PreconditionFailed"), Ok(Copied::Gone)),
        (fault("501 Not Implemented", "NotImplemented"), Ok(Copied::Impossible)),
        // The server took the request for an upload.
        (done(), Err(Retry::Unknown)),
        (reply("200 OK", "", "<CopyObjectResult>"), Err(Retry::Unknown)),
        (reply("200 OK", "", failed), Err(Retry::Transient)),
        (fault("404 Not Found", "NoSuchBucket"), Err(Retry::Permanent)),
        (fault("403 Forbidden", "AccessDenied"), Err(Retry::Permanent)),
    ] {
        let (_dir, _server, bucket) = scripted(vec![answer.clone()]).await;
        let copy = bucket.copy(&origin(&bucket, 1), "nar/b", ContentType::Nar).await;
        assert_eq!(copy.as_ref().map_err(Error::retry), ended.as_ref().map_err(|retry| *retry), "{answer}");
    }
}

#[tokio::test]
async fn a_bucket_elsewhere_is_no_origin() {
    let (_dir, server, bucket) = scripted(vec![done()]).await;
    let (_dir, _server, other) = scripted(vec![done()]).await;
    let ended = bucket.copy(&origin(&other, 1), "nar/b", ContentType::Nar).await.expect("copy");
    assert_eq!((ended, server.seen().len()), (Copied::Impossible, 0));
}

#[tokio::test]
async fn a_large_copy_goes_in_parts_and_leaves_none_behind() {
    let started = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    let part = "<CopyPartResult><ETag>e</ETag></CopyPartResult>";
    let complete = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>";
    let [started, part, complete] = [started, part, complete].map(|text| reply("200 OK", "", text));
    let answers = vec![started.clone(), part.clone(), part, complete];
    let (_dir, server, bucket) = scripted(answers).await;
    let from = |bucket: &S3Bucket| origin(bucket, (1 << 30) + 1);
    assert_eq!(bucket.copy(&from(&bucket), "b", ContentType::Nar).await.expect("copy"), Copied::Done);
    let mut parts: Vec<String> = server.seen()[1..3].iter().map(|head| head.to_lowercase()).collect();
    parts.sort();
    assert!(parts[0].contains("x-amz-copy-source-range: bytes=0-1073741823"), "{parts:?}");
    assert!(parts[1].contains("x-amz-copy-source-range: bytes=1073741824-1073741824"), "{parts:?}");

    for (answer, ended) in [
        (fault("404 Not Found", "NoSuchKey"), Ok(Copied::Gone)),
        (fault("501 Not Implemented", "NotImplemented"), Ok(Copied::Impossible)),
        (done(), Err(Retry::Unknown)),
    ] {
        let (_dir, server, bucket) = scripted(vec![started.clone(), answer]).await;
        let copy = bucket.copy(&from(&bucket), "b", ContentType::Nar).await;
        assert_eq!(copy.map_err(|error| error.retry()), ended);
        let last = server.seen().last().cloned().unwrap_or_default();
        assert!(last.starts_with("DELETE /cache/pre%20fix%2B/b?uploadId=u "), "{last}");
    }
}

#[tokio::test]
async fn versions_of_one_key_are_found_on_all_pages() {
    let page =
        |inner: &str| reply("200 OK", "", &format!("<ListVersionsResult>{inner}</ListVersionsResult>"));
    let first = "<DeleteMarker><Key>pre fix+/a</Key><VersionId>3</VersionId></DeleteMarker><Version>\
        <Key>pre fix+/a</Key><VersionId>2</VersionId><Size>9</Size></Version><IsTruncated>true</IsTruncated>\
        <NextKeyMarker>pre fix+/a</NextKeyMarker><NextVersionIdMarker>2+</NextVersionIdMarker>";
    let second = "<Version><Key>pre fix+/a</Key><VersionId>1</VersionId><Size>8</Size></Version><Version>\
        <Key>pre fix+/ab</Key><VersionId>1</VersionId><Size>7</Size></Version>";
    let (_dir, server, bucket) = scripted(vec![page(first), page(second)]).await;
    let version = |id: &str, is_marker, size| Version { id: id.into(), is_marker, size };
    let found = bucket.versions("a").await.expect("versions");
    assert_eq!(found, [version("3", true, 0), version("2", false, 9), version("1", false, 8)]);
    let seen = server.seen();
    assert!(seen[0].starts_with("GET /cache/?versions=&prefix=pre%20fix%2B%2Fa "), "{seen:?}");
    assert!(seen[1].contains("key-marker=pre%20fix%2B%2Fa&version-id-marker=2%2B&prefix="), "{seen:?}");

    // The server names the same position again and again.
    let (_dir, server, bucket) = scripted(vec![page(first)]).await;
    assert_eq!(bucket.versions("a").await.expect_err("endless").retry(), Retry::Unknown);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn only_a_clear_answer_says_that_there_are_no_versions() {
    let (_dir, _server, bucket) = scripted(vec![fault("501 Not Implemented", "NotImplemented")]).await;
    assert_eq!(bucket.versions("a").await.expect("none"), []);
    for answer in [
        fault("403 Forbidden", "AccessDenied"),
        fault("405 Method Not Allowed", "MethodNotAllowed"),
        reply("200 OK", "", "<ListBucketResult></ListBucketResult>"),
        done(),
    ] {
        let (_dir, _server, bucket) = scripted(vec![answer.clone()]).await;
        bucket.versions("a").await.expect_err(&answer);
    }
}

#[tokio::test]
async fn a_version_is_removed_by_its_id() {
    for answer in [reply("204 No Content", "", ""), fault("404 Not Found", "NoSuchVersion")] {
        let (_dir, server, bucket) = scripted(vec![answer]).await;
        bucket.delete_version("a", "1+").await.expect("delete");
        assert!(server.seen()[0].starts_with("DELETE /cache/pre%20fix%2B/a?versionId=1%2B "));
    }
    let (_dir, _server, bucket) = scripted(vec![fault("403 Forbidden", "AccessDenied")]).await;
    let error = bucket.delete_version("a", "1").await.expect_err("locked");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("s3:DeleteObjectVersion")), "{error:?}");
}
