//! Tests of sending and repeating requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn the_server_decides_when_a_request_is_repeated() {
    let busy = reply("429 Too Many Requests", "retry-after: 1\r\n", "");
    let (_dir, server, bucket) = scripted(vec![busy, reply("200 OK", "", "hi")]).await;
    let begun = std::time::Instant::now();
    bucket.get("a").await.expect("get");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_known_hash_is_not_computed_again() {
    let (_dir, server, bucket) = scripted(vec![reply("200 OK", "ETag: \"e\"\r\n", "")]).await;
    let known = Body { sha256: Some([0xab; 32]), ..body("x") };
    bucket.put("a", known, ContentType::Nar, Condition::None).await.expect("put");
    bucket.put("a", body("x"), ContentType::Nar, Condition::None).await.expect("put");
    let hash = |number: usize| {
        let head = server.seen()[number].to_lowercase();
        head.lines().find_map(|line| line.strip_prefix("x-amz-content-sha256: ").map(str::to_owned))
    };
    assert_eq!(hash(0), Some("ab".repeat(32)));
    let computed = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    assert_eq!(hash(1).as_deref(), Some(computed));
}

#[tokio::test]
async fn an_error_in_the_body_of_a_success_is_an_error() {
    let broken = fault("200 OK", "InternalError");
    let (_dir, server, bucket) = scripted(vec![broken.clone(), reply("200 OK", "", "")]).await;
    bucket.put("a", body("x"), ContentType::Nar, Condition::None).await.expect("the second time");
    assert_eq!(server.seen().len(), 2);

    let (_dir, _server, bucket) = scripted(vec![broken]).await;
    let error =
        bucket.put("a", body("x"), ContentType::NarInfo, Condition::IfAbsent).await.expect_err("error");
    assert_eq!(error.retry(), Retry::Transient, "{error:?}");
    assert!(bucket.delete("a").await.is_err());
}

#[tokio::test]
async fn unfinished_uploads_are_listed_and_discarded() {
    let listing = "<ListMultipartUploadsResult><Upload><Key>pre fix+/nar/a</Key><UploadId>u+1</UploadId></Upload>\
        <Upload><Key>nar/of somebody else</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>";
    let gone = fault("404 Not Found", "NoSuchUpload");
    let (_dir, server, bucket) = scripted(vec![reply("200 OK", "", listing), gone]).await;
    let uploads = bucket.unfinished("nar/").await.expect("listing");
    assert_eq!(uploads, [Unfinished { key: "nar/a".into(), id: "u+1".into() }]);
    bucket.discard(&uploads[0]).await.expect("gone already");
    assert!(
        server.seen()[1].starts_with("DELETE /cache/pre%20fix%2B/nar/a?uploadId=u%2B1 "),
        "{:?}",
        server.seen()
    );

    let (_dir, _server, bucket) = scripted(vec![fault("501 Not Implemented", "NotImplemented")]).await;
    assert!(bucket.unfinished("nar/").await.is_err());
}

#[tokio::test]
async fn the_clock_of_the_server_is_adopted() {
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    let skewed = reply("403 Forbidden", "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", skewed);
    let (_dir, server, bucket) = scripted(vec![skewed.clone(), reply("200 OK", "", "hi")]).await;
    bucket.get("a").await.expect("get");
    assert!(server.seen()[1].contains("x-amz-date: 19941106T0849"), "{:?}", server.seen());

    // The server refuses its own time.
    let (_dir, server, bucket) = scripted(vec![skewed]).await;
    let error = bucket.get("a").await.expect_err("skewed");
    assert_eq!((error.area(), error.retry(), server.seen().len()), (Area::Credentials, Retry::Transient, 2));
    assert!(error.hint_text().is_some_and(|hint| hint.contains("clock")), "{error:?}");
}

/// A server that answers `per_connection` requests of each connection and closes it at the next request. Returns its port
/// and the number of connections so far.
async fn impatient(per_connection: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                for _ in 0..per_connection {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
                    stream.write_all(answer).await.expect("answer");
                }
                let _ = stream.read_u8().await;
            });
        }
    });
    (port, connections)
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_is_not_a_failure() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (port, connections) = impatient(1).await;
    let bucket = at(port, dir.path(), 1).await;
    for _ in 0..5 {
        assert!(bucket.get("a").await.expect("get").is_some());
    }
    assert_eq!(connections.load(Ordering::Relaxed), 5);

    let (port, _) = impatient(0).await;
    let error = at(port, dir.path(), 1).await.get("a").await.expect_err("never an answer");
    assert_eq!(error.retry(), Retry::Transient);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_reused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (port, connections) = impatient(usize::MAX).await;
    let bucket = at(port, dir.path(), 1).await;
    // A connection that has just given its answer may not be back yet when the next request wants one: the rounds go on
    // until one of them makes hardly any new connection.
    let mut made = Vec::new();
    while made.last().is_none_or(|made| *made > 20) {
        assert!(made.len() < 20, "each round makes connections: {made:?}");
        let before = connections.load(Ordering::Relaxed);
        let all = futures::future::join_all((0..200).map(|_| bucket.get("a"))).await;
        assert!(all.into_iter().all(|got| got.is_ok_and(|got| got.is_some())));
        made.push(connections.load(Ordering::Relaxed) - before);
    }
    assert!(made[0] <= 200, "{made:?}");
}
