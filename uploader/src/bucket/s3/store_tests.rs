use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::error::{Area, Retry};
use crate::bucket::conformance::{self, Traits};
use crate::bucket::interface::MAX_SMALL;
use crate::http::scripted::{Scripted, fault, reply};

#[path = "sender_tests.rs"]
mod sending;

#[path = "change_tests.rs"]
mod changes;

const KEYS: &str = "id\nsecret\n";

async fn at(port: u16, dir: &Path, attempts: u32) -> S3Bucket {
    at_with(
        port,
        dir,
        Options { max_attempts: attempts, expiring_signatures: Some(false), ..Options::default() },
    )
    .await
}

async fn at_with(port: u16, dir: &Path, options: Options) -> S3Bucket {
    let file = dir.join("keys");
    std::fs::write(&file, KEYS).expect("write");
    let options = Options { credentials_file: Some(file), ..options };
    let address = format!("s3://cache/pre fix+?endpoint=127.0.0.1:{port}&scheme=http");
    match address.parse().expect("address") {
        crate::bucket::Address::S3(address) => S3Bucket::open(address, &options).await.expect("open"),
        other => panic!("{other:?}"),
    }
}

/// A bucket on a server that answers from a script.
async fn scripted(answers: Vec<String>) -> (tempfile::TempDir, Scripted, S3Bucket) {
    let dir = tempfile::tempdir().expect("tempdir");
    let server = Scripted::start(answers).await;
    let bucket = at(server.port, dir.path(), 3).await;
    (dir, server, bucket)
}

fn body(text: &'static str) -> Body {
    text.into()
}

/// Starts an S3 server in this process and returns its port.
async fn serve(root: &Path) -> u16 {
    let files = s3s_fs::FileSystem::new(root).expect("file system");
    let mut builder = s3s::service::S3ServiceBuilder::new(files);
    builder.set_auth(s3s::auth::SimpleAuth::from_single("id", "secret"));
    let service = builder.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let http = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = http.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let dir = tempfile::tempdir().expect("tempdir");
    let root = dir.path().join("root");
    std::fs::create_dir(&root).expect("root");
    let bucket = at(serve(&root).await, dir.path(), 3).await;
    conformance::run(Arc::new(bucket), Traits { folders_are_missing: false, ..Traits::default() })
        .await
        .expect("conformance");
}

/// The answers to the start of a multipart upload, to its only part, and these.
fn upload_with(answers: &[String]) -> Vec<String> {
    let started = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    let begun = [reply("200 OK", "", started), reply("200 OK", "ETag: \"e\"\r\n", "")];
    [&begun, answers].concat()
}

#[tokio::test]
async fn an_error_in_the_answer_to_a_completion_is_an_error() {
    let failed = "<?xml version=\"1.0\"?>\n\n<Error><Code>InvalidPart</Code><Message>m</Message></Error>";
    for (answer, retry) in [
        (reply("200 OK", "", failed), Retry::Unknown),
        (reply("200 OK", "", &failed.replace("InvalidPart", "InternalError")), Retry::Transient),
        (reply("200 OK", "", ""), Retry::Unknown),
        (
            reply("200 OK", "", "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"),
            Retry::Unknown,
        ),
        (fault("503 Service Unavailable", "SlowDown"), Retry::Transient),
    ] {
        let (_dir, _server, bucket) = scripted(upload_with(std::slice::from_ref(&answer))).await;
        let upload = bucket.start_multipart("nar/x", ContentType::Nar).await.expect("start");
        upload.part(1, body("x")).await.expect("part");
        let error = upload.complete().await.expect_err(&answer);
        assert_eq!(error.retry(), retry, "{error}");
    }
}

#[tokio::test]
async fn a_completed_upload_is_found_after_a_lost_answer() {
    let gone = fault("404 Not Found", "NoSuchUpload");
    for (size, found) in [(1, true), (2, false)] {
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n");
        let (_dir, _server, bucket) = scripted(upload_with(&[gone.clone(), head])).await;
        let upload = bucket.start_multipart("nar/x", ContentType::Nar).await.expect("start");
        upload.part(1, body("x")).await.expect("part");
        assert_eq!(upload.complete().await.is_ok(), found);
    }
}

#[tokio::test]
async fn a_multipart_upload_survives_a_busy_server() {
    let busy = fault("503 Slow Down", "SlowDown");
    let started = reply(
        "200 OK",
        "",
        "<InitiateMultipartUploadResult><UploadId>u&amp;1</UploadId></InitiateMultipartUploadResult>",
    );
    let part = reply("200 OK", "ETag: \"e\"\r\n", "");
    let done = "\n<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>";
    let answers = vec![busy.clone(), started, part, busy, reply("200 OK", "", done)];
    let (_dir, server, bucket) = scripted(answers).await;
    let upload = bucket.start_multipart("nar/x", ContentType::Nar).await.expect("start");
    upload.part(1, body("x")).await.expect("part");
    upload.complete().await.expect("complete");
    let seen: Vec<String> = server.seen().iter().map(|head| head.to_lowercase()).collect();
    for begin in [&seen[0], &seen[1]] {
        assert!(begin.starts_with("post /cache/pre%20fix%2b/nar/x?uploads= "), "{begin}");
        assert!(begin.contains("content-length: 0"), "{begin}");
        assert!(begin.contains("content-type: application/x-nix-nar"), "{begin}");
    }
    assert!(seen[2].starts_with("put /cache/pre%20fix%2b/nar/x?partnumber=1&uploadid=u%261 "), "{seen:?}");
    for end in [&seen[3], &seen[4]] {
        assert!(end.starts_with("post /cache/pre%20fix%2b/nar/x?uploadid=u%261 "), "{end}");
        assert!(end.contains("content-type: application/xml"), "{end}");
    }
}

#[tokio::test]
async fn an_answer_without_an_upload_id_is_an_error() {
    for answer in ["", "<InitiateMultipartUploadResult/>", "<html>"] {
        let (_dir, _server, bucket) = scripted(vec![reply("200 OK", "", answer)]).await;
        let error = bucket.start_multipart("a", ContentType::Nar).await.err().expect(answer);
        assert_eq!(error.retry(), Retry::Unknown, "{error}");
    }
}

#[tokio::test]
async fn a_bucket_is_created_unless_it_exists() {
    let done = || reply("200 OK", "", "");
    let (_dir, server, bucket) = scripted(vec![done()]).await;
    bucket.create().await.expect("create");
    assert!(server.seen()[0].starts_with("PUT /cache/ "), "{:?}", server.seen());
    assert!(server.seen()[0].to_lowercase().contains("content-length: 0"), "{:?}", server.seen());

    let (_dir, _server, bucket) = scripted(vec![fault("409 Conflict", "BucketAlreadyOwnedByYou")]).await;
    bucket.create().await.expect("larder's own bucket");

    let taken = fault("409 Conflict", "BucketAlreadyExists");
    let head = |status| format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let (_dir, _server, bucket) = scripted(vec![taken.clone(), head("200 OK")]).await;
    bucket.create().await.expect("larder's own bucket, too");
    let forbidden = fault("403 Forbidden", "AccessDenied");
    let (_dir, _server, bucket) = scripted(vec![taken, head("403 Forbidden"), forbidden]).await;
    let error = bucket.create().await.expect_err("the bucket of another account");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("another name")), "{error:?}");

    let address = |port| format!("s3://cache?endpoint=127.0.0.1:{port}&scheme=http&region=garage");
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("keys");
    std::fs::write(&file, KEYS).expect("write");
    let server = Scripted::start(vec![fault("400 Bad Request", "InvalidLocationConstraint"), done()]).await;
    let options = Options { credentials_file: Some(file), ..Options::default() };
    let bucket = crate::bucket::open(&address(server.port), &options).await.expect("open");
    bucket.create().await.expect("create without a region");
    let seen: Vec<String> = server.seen().iter().map(|head| head.to_lowercase()).collect();
    assert!(seen[0].contains("content-type: application/xml"), "{seen:?}");
    assert!(!seen[1].contains("content-type") && seen[1].contains("content-length: 0"), "{seen:?}");
}

#[tokio::test]
async fn a_listing_gives_the_reason_why_a_bucket_cannot_be_looked_up() {
    let head = |status| format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let (_dir, _server, bucket) = scripted(vec![head("404 Not Found")]).await;
    assert!(!bucket.exists().await.expect("absent"));

    let expired = fault("400 Bad Request", "ExpiredToken");
    let (_dir, server, bucket) = scripted(vec![head("400 Bad Request"), expired]).await;
    assert_eq!(bucket.exists().await.expect_err("expired").area(), Area::Credentials);
    assert!(server.seen()[1].starts_with("GET /cache/?list-type=2&max-keys=1 "), "{:?}", server.seen());

    // A status of 200 does not hide an error.
    let error = fault("200 OK", "AccessDenied");
    let (_dir, _server, bucket) = scripted(vec![head("403 Forbidden"), error]).await;
    assert!(bucket.exists().await.is_err());

    let moved = head("301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1");
    let (_dir, _server, bucket) = scripted(vec![moved]).await;
    let error = bucket.exists().await.expect_err("region");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("region=eu-west-1")), "{error:?}");
}

#[tokio::test]
async fn requests_to_a_busy_server_are_repeated() {
    let (_dir, server, bucket) = scripted(vec![
        fault("503 Slow Down", "SlowDown"),
        fault("500 Oh", "InternalError"),
        reply("200 OK", "ETag: \"e\"\r\n", "hi"),
    ])
    .await;
    let object = bucket.get("a b+").await.expect("get").expect("present");
    assert_eq!((&object.body[..], object.etag.as_deref()), (&b"hi"[..], Some("\"e\"")));
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[0].starts_with("GET /cache/pre%20fix%2B/a%20b%2B"), "{seen:?}");

    let (_dir, server, bucket) = scripted(vec![fault("503 Slow Down", "SlowDown")]).await;
    assert_eq!(bucket.get("a").await.expect_err("busy").retry(), Retry::Transient);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn only_an_explicit_code_proves_absence() {
    let (_dir, _server, bucket) = scripted(vec![fault("404 Not Found", "NoSuchKey")]).await;
    assert_eq!(bucket.get("a").await.expect("absent"), None);

    let (_dir, _server, bucket) = scripted(vec![fault("404 Not Found", "NoSuchBucket")]).await;
    let error = bucket.get("a").await.expect_err("no bucket");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("larder init --create")), "{error:?}");

    let (_dir, _server, bucket) = scripted(vec![reply("404 Not Found", "", "<html>not S3</html>")]).await;
    assert_eq!(bucket.get("a").await.expect_err("not S3").retry(), Retry::Unknown);

    let head = |status| format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let (_dir, _server, bucket) = scripted(vec![head("404 Not Found")]).await;
    assert_eq!(bucket.head("a").await.expect("absent"), None);

    // A GET gives the reason for which a HEAD has no room.
    let (_dir, _server, bucket) =
        scripted(vec![head("400 Bad Request"), fault("400 Bad Request", "ExpiredToken")]).await;
    assert_eq!(bucket.head("a").await.expect_err("expired").area(), Area::Credentials);

    let (_dir, _server, bucket) = scripted(vec![head("403 Forbidden")]).await;
    let error = bucket.head("a").await.expect_err("forbidden");
    assert_eq!((error.area(), error.retry()), (Area::Bucket, Retry::Permanent));
    assert!(error.hint_text().is_some_and(|hint| hint.contains("s3:ListBucket")), "{error:?}");
}

#[tokio::test]
async fn a_truncated_body_is_read_again_and_then_an_error() {
    let short = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\nabc".to_owned();
    let (_dir, _server, bucket) = scripted(vec![short.clone(), reply("200 OK", "", "0123456789")]).await;
    assert_eq!(bucket.get("a").await.expect("get").expect("present").body, "0123456789");

    let (_dir, server, bucket) = scripted(vec![short]).await;
    assert_eq!(bucket.get("a").await.expect_err("broken").retry(), Retry::Transient);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_condition_that_does_not_hold_is_no_error() {
    for answer in
        [fault("412 Precondition Failed", "PreconditionFailed"), reply("412 Precondition Failed", "", "")]
    {
        let (_dir, server, bucket) = scripted(vec![answer]).await;
        let put = bucket.put("a", body("x"), ContentType::NarInfo, Condition::IfAbsent).await.expect("put");
        assert_eq!(put, Put::Refused);
        let head = server.seen()[0].to_lowercase();
        assert!(
            head.contains("if-none-match: *") && head.contains("content-type: text/x-nix-narinfo"),
            "{head}"
        );
        assert!(!head.contains("content-encoding") && !head.contains("x-amz-checksum"), "{head}");
    }
    let (_dir, server, bucket) = scripted(vec![fault("412 Precondition Failed", "PreconditionFailed")]).await;
    let put = bucket.put("a", body("x"), ContentType::Text, Condition::IfMatch("\"e\"".into())).await;
    assert_eq!(put.expect("put"), Put::Refused);
    assert!(server.seen()[0].to_lowercase().contains("if-match: \"e\""));

    let (_dir, _server, bucket) = scripted(vec![fault("409 Conflict", "ConditionalRequestConflict")]).await;
    let error =
        bucket.put("a", body("x"), ContentType::Text, Condition::IfAbsent).await.expect_err("conflict");
    assert_eq!(error.retry(), Retry::Transient);

    // The server knows no conditions.
    let none = fault("501 Not Implemented", "NotImplemented");
    let absent = "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned();
    let (_dir, server, bucket) = scripted(vec![none, absent, reply("200 OK", "", "")]).await;
    let put = bucket.put("a", body("x"), ContentType::Text, Condition::IfAbsent).await.expect("put");
    assert_eq!((put, server.seen().len()), (Put::Written, 3));
}

#[tokio::test]
async fn errors_name_their_area() {
    let (_dir, _server, bucket) = scripted(vec![fault("403 Forbidden", "InvalidAccessKeyId")]).await;
    assert_eq!(bucket.get("a").await.expect_err("credentials").area(), Area::Credentials);

    // Garage has one code for everything.
    let unknown = "<Error><Code>AccessDenied</Code><Message>Forbidden: No such key: GK1</Message></Error>";
    let (_dir, _server, bucket) = scripted(vec![reply("403 Forbidden", "", unknown)]).await;
    assert_eq!(bucket.get("a").await.expect_err("credentials").area(), Area::Credentials);

    let redirect = reply(
        "301 Moved",
        "x-amz-bucket-region: eu-west-1\r\n",
        "<Error><Code>PermanentRedirect</Code></Error>",
    );
    let (_dir, _server, bucket) = scripted(vec![redirect]).await;
    let error = bucket.get("a").await.expect_err("region");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("region=eu-west-1")), "{error:?}");

    let large = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", MAX_SMALL + 1);
    let (_dir, _server, bucket) = scripted(vec![large]).await;
    let error = bucket.get("a").await.expect_err("large");
    assert_eq!(error.retry(), Retry::Permanent);
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn missing_credentials_and_a_missing_server_are_reported() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = at(1, dir.path(), 1).await;
    let error = bucket.head("a").await.expect_err("refused");
    assert_eq!(error.retry(), Retry::Transient);
    assert!(error.to_string().contains("refused"), "{error}");

    // The file is read again and is not valid any more.
    let bucket = at(1, dir.path(), 1).await;
    std::fs::write(dir.path().join("keys"), "hunter2").expect("write");
    let error = bucket.head("a").await.expect_err("no credentials");
    assert_eq!((error.area(), error.retry()), (Area::Credentials, Retry::Permanent), "{error}");
    assert!(!format!("{error:?} {bucket:?}").contains("hunter2"));

    let address = "s3://cache?endpoint=127.0.0.1:1&scheme=http&profile=no-such-profile-of-larder";
    let bucket = crate::bucket::open(address, &Options::default()).await.expect("open");
    let error = bucket.head("a").await.expect_err("no profile");
    assert_eq!(error.area(), Area::Credentials, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("AWS_ACCESS_KEY_ID")));
}

#[tokio::test]
async fn a_listing_is_decoded_and_sorted() {
    let xml = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
        <NextContinuationToken>t=</NextContinuationToken>\
        <Contents><Key>pre+fix%2B/b%20%C3%A9</Key><Size>2</Size></Contents>\
        <Contents><Key>pre+fix%2B/</Key><Size>0</Size></Contents>\
        <Contents><Key>pre+fix%2B/a%2Bb</Key><Size>1</Size><ETag>e</ETag></Contents>\
        <CommonPrefixes><Prefix>pre+fix%2B/c/</Prefix></CommonPrefixes></ListBucketResult>";
    let (_dir, server, bucket) = scripted(vec![reply("200 OK", "", xml)]).await;
    let page = bucket.list("", Some(&Cursor::after("a")), Depth::OneLevel).await.expect("list");
    let keys: Vec<&str> = page.objects.iter().map(|object| object.key.as_str()).collect();
    assert_eq!((keys, page.folders), (vec!["a+b", "b é"], vec!["c/".to_owned()]));
    assert!(server.seen()[0].contains("start-after=pre%20fix%2B%2Fa"), "{:?}", server.seen());
    // The second page has the same token as the first page.
    let error = bucket.list("", page.next.as_ref(), Depth::Flat).await.expect_err("the same page");
    assert!(error.to_string().contains("has no end"), "{error}");
    assert!(server.seen()[1].contains("continuation-token=t%3D"), "{:?}", server.seen());

    let endless = xml.replace("<NextContinuationToken>t=</NextContinuationToken>", "");
    let (_dir, _server, bucket) = scripted(vec![reply("200 OK", "", &endless)]).await;
    assert_eq!(bucket.list("", None, Depth::OneLevel).await.expect_err("no token").retry(), Retry::Unknown);

    // This server does not know positions at all: it sends the first page again.
    let first = "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>pre fix+/a</Key></Contents>\
        </ListBucketResult>";
    let (_dir, _server, bucket) = scripted(vec![reply("200 OK", "", first)]).await;
    let page = bucket.list("", None, Depth::Flat).await.expect("list");
    assert!(bucket.list("", page.next.as_ref(), Depth::Flat).await.is_err());
}

#[tokio::test]
async fn a_listing_tells_ages_by_the_clock_of_the_server() {
    let listed = "<ListBucketResult><Contents><Key>pre fix+/a</Key>\
        <LastModified>1994-11-05T08:49:37.000Z</LastModified></Contents><Contents><Key>pre fix+/b</Key>\
        <LastModified>1994-11-07T08:49:37.5Z</LastModified></Contents><Contents><Key>pre fix+/c</Key></Contents>\
        </ListBucketResult>";
    let day = Duration::from_secs(24 * 3600);
    for (headers, ages) in [
        ("date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", [Some(day), Some(Duration::ZERO), None]),
        // An answer from a cache tells nothing, and neither does an answer without a date.
        ("date: Sun, 06 Nov 1994 08:49:37 GMT\r\nage: 5\r\n", [None; 3]),
        ("", [None; 3]),
    ] {
        let (_dir, _server, bucket) = scripted(vec![reply("200 OK", headers, listed)]).await;
        let page = bucket.list("", None, Depth::Flat).await.expect("list");
        assert_eq!(page.objects.iter().map(|object| object.age).collect::<Vec<_>>(), ages, "{headers}");
    }
    let head = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nlast-modified: Sat, 05 Nov 1994 08:49:37 GMT\r\n";
    let (_dir, _server, bucket) = scripted(vec![reply("200 OK", head, "")]).await;
    assert_eq!(bucket.head("a").await.expect("head").and_then(|head| head.age), Some(day));
}

#[tokio::test]
async fn a_policy_is_extended_if_the_server_has_policies() {
    let none = fault("404 Not Found", "NoSuchBucketPolicy");
    let (_dir, server, bucket) = scripted(vec![none.clone(), reply("204 No Content", "", "")]).await;
    assert_eq!(bucket.allow_anonymous_read().await.expect("policy"), AnonymousRead::Granted);
    assert!(server.seen()[1].starts_with("PUT /cache/?policy= "), "{:?}", server.seen());
    assert!(server.seen()[1].to_lowercase().contains("x-amz-checksum-sha256: "), "{:?}", server.seen());

    for refusal in [fault("501 Not Implemented", "NotImplemented"), reply("405 Method Not Allowed", "", "")] {
        for answers in [vec![refusal.clone()], vec![none.clone(), refusal.clone()]] {
            let (_dir, _server, bucket) = scripted(answers).await;
            let end = bucket.allow_anonymous_read().await.expect("unsupported");
            assert!(matches!(end, AnonymousRead::Unsupported(_)), "{end:?}");
        }
    }
    let (_dir, _server, bucket) = scripted(vec![fault("403 Forbidden", "AccessDenied")]).await;
    assert!(bucket.allow_anonymous_read().await.is_err());
    // A status of 200 does not hide an error.
    let none = fault("200 OK", "NoSuchBucketPolicy");
    let (_dir, server, bucket) = scripted(vec![none, reply("204 No Content", "", "")]).await;
    assert_eq!(bucket.allow_anonymous_read().await.expect("policy"), AnonymousRead::Granted);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_not_a_listing_is_an_error() {
    for body in ["<html>welcome</html>", "", "<ListBucketResult><Contents>"] {
        let (_dir, _server, bucket) = scripted(vec![reply("200 OK", "", body)]).await;
        let error = bucket.list("", None, Depth::Flat).await.expect_err(body);
        assert_eq!(error.retry(), Retry::Unknown);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("endpoint")), "{error:?}");
    }
}
