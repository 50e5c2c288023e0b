use super::*;
use crate::base::error::Retry;
use crate::http::scripted::{Scripted, reply};

fn reader() -> PublicReader {
    PublicReader::new(None).expect("reader")
}

#[tokio::test]
async fn any_status_is_an_answer() {
    let server = Scripted::start(vec![
        reply("200 OK", "Content-Type: text/x\r\n", "hello"),
        reply("404 Not Found", "", "gone"),
        reply("403 Forbidden", "", ""),
    ])
    .await;
    let url = format!("http://127.0.0.1:{}/a%20b?x=1#f", server.port);
    let first = reader().get(&url).await.expect("get");
    assert_eq!(
        (first.status, &first.body[..], first.header("content-type")),
        (200, &b"hello"[..], Some("text/x"))
    );
    assert_eq!(reader().get(&url).await.expect("get").status, 404);
    assert_eq!(reader().head(&url).await.expect("head").status, 403);
    let seen = server.seen();
    assert!(seen[0].starts_with("GET /a%20b?x=1 HTTP/1.1"), "{seen:?}");
    assert!(seen[2].starts_with("HEAD "), "{seen:?}");
    assert!(!seen[0].to_lowercase().contains("authorization"), "{seen:?}");
}

#[tokio::test]
async fn redirects_are_followed_and_counted() {
    let server = Scripted::start(vec![
        reply("302 Found", "location: /next\r\n", ""),
        reply("200 OK", "", "there"),
        reply("302 Found", "location: /again\r\n", ""),
    ])
    .await;
    let url = format!("http://127.0.0.1:{}/first", server.port);
    let answer = reader().get(&url).await.expect("get");
    assert_eq!((answer.status, answer.url.ends_with("/next")), (200, true));
    assert!(reader().get(&url).await.expect_err("a loop").to_string().contains("more than 5 times"));
}

#[tokio::test]
async fn failures_name_their_cause() {
    let port = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        listener.local_addr().expect("address").port()
    };
    let refused = reader().get(&format!("http://127.0.0.1:{port}/")).await.expect_err("refused");
    assert!(refused.to_string().contains("refused"), "{refused}");
    assert_eq!(refused.retry(), Retry::Transient);

    let unknown = reader().get("http://no-such-host.invalid/").await.expect_err("unknown");
    assert!(unknown.to_string().contains("not resolved"), "{unknown}");

    let plain = Scripted::start(vec![reply("400 Bad Request", "", "")]).await;
    let tls = reader().get(&format!("https://127.0.0.1:{}/", plain.port)).await.expect_err("no TLS");
    assert!(tls.to_string().contains("TLS failed"), "{tls}");

    let short = Scripted::start(vec!["HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".into()]).await;
    let broken = reader().get(&format!("http://127.0.0.1:{}/", short.port)).await.expect_err("broken");
    assert_eq!(broken.retry(), Retry::Transient, "{broken}");

    let secret = reader().get("ftp://u:hunter2@h/x").await.expect_err("scheme").to_string();
    assert!(!secret.contains("hunter2"), "{secret}");
}

#[tokio::test]
async fn files_are_read_too() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("a b"), "x").expect("write");
    let base = format!("file://{}", dir.path().display());
    let found = reader().get(&format!("{base}/a%20b")).await.expect("get");
    assert_eq!((found.status, &found.body[..]), (200, &b"x"[..]));
    assert_eq!(reader().head(&format!("{base}/a%20b")).await.expect("head").body, Bytes::new());
    assert_eq!(reader().get(&format!("{base}/missing")).await.expect("get").status, 404);
    assert_eq!(reader().get(&base).await.expect("get").status, 404);
}
