//! Answers one request.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::activity::RunningRequest;
use super::body::Body;
use super::caches::{Cache, Caches};
use super::event::Event;
use super::host;
use crate::format::{cache_path, object_keys};
use crate::http::NoAnswer;

/// The request headers that the relay forwards. `accept-encoding` is not among them: a client cannot resume the
/// download of a NAR that the server compresses.
const REQUEST_HEADERS: [&str; 6] =
    ["authorization", "if-modified-since", "if-none-match", "if-range", "range", "user-agent"];
/// The response headers that the relay forwards.
const RESPONSE_HEADERS: [&str; 9] = [
    "accept-ranges",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "last-modified",
    "location",
];
/// The relay repeats a request once if it fails faster than this. Such failures pass quickly: a connection that the
/// server has just closed, or a busy server.
const FAST_FAILURE: Duration = Duration::from_secs(1);
/// How long the relay waits before it repeats a request.
const REPEAT_PAUSE: Duration = Duration::from_millis(200);

/// The largest file that the relay reads as a whole before it answers, and the time for that.
const MAX_SMALL: u64 = 1 << 20;
const SMALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The `nix-cache-info` of an unavailable cache. Nix remembers the priority for a week, so it is the priority that
/// `larder init` gives a bucket.
const CACHE_INFO: &str = "WantMassQuery: 1\nPriority: 30\n";

/// Answers a request that came to the address `local`. It counts as running until the answer's body is sent.
pub(super) async fn respond<B>(
    caches: &Caches,
    local: IpAddr,
    request: http::Request<B>,
    running: RunningRequest,
) -> Response<Body> {
    if !host::is_ours(request.uri(), request.headers(), local) {
        return text(StatusCode::MISDIRECTED_REQUEST, "the relay has another address\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this is for reading\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if path == "/" {
        return text(StatusCode::OK, caches.summary());
    }
    let Some((cache, path)) = caches.find(path) else {
        return text(StatusCode::NOT_FOUND, "no cache has such a path\n");
    };
    if !cache.health.may_ask(Instant::now()) {
        return absent(path, "away\n");
    }
    let answer = match ask(cache, request.method(), path, request.headers()).await {
        Ok(response) => answered(request.method(), path, response, running).await,
        Err(fault) => Err(fault),
    };
    if let Err(Fault::Away(reason)) = answer {
        if cache.health.failed(Instant::now()) {
            caches.notify(Event::Unavailable { cache: &cache.name, reason });
        }
        return absent(path, "away\n");
    }
    if cache.health.answered() {
        caches.notify(Event::Available { cache: &cache.name });
    }
    let first = cache.health.hides(answer.is_err());
    answer.unwrap_or_else(|fault| {
        if let (Fault::Hidden(reason), true) = (fault, first) {
            caches.notify(Event::Hidden { cache: &cache.name, path, reason });
        }
        absent(path, "hidden\n")
    })
}

/// The answer of a cache.
type CacheResponse = Response<crate::http::Body>;

/// Why Nix does not get the answer of a cache.
enum Fault {
    /// The cache cannot be reached, or does not answer in time.
    Away(String),
    /// Nix would fail a build because of this answer.
    Hidden(String),
}

/// Sends a request to a cache.
async fn ask(
    cache: &Cache,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<CacheResponse, Fault> {
    let headers: Vec<_> =
        REQUEST_HEADERS.iter().filter_map(|name| Some((*name, headers.get(*name)?.to_str().ok()?))).collect();
    let begun = Instant::now();
    let send = || async {
        let response = cache.server.send(method.as_str(), path, &headers).await;
        let response = response.map_err(|fault| match fault {
            NoAnswer::Unreachable(error) => Fault::Away(error.to_string()),
            NoAnswer::Broken(error) => Fault::Hidden(error.to_string()),
        })?;
        match response.status().as_u16() {
            status @ (429 | 500..) => Err(Fault::Hidden(format!("status {status}"))),
            _ => Ok(response),
        }
    };
    match send().await {
        Err(_) if begun.elapsed() < FAST_FAILURE => {
            tokio::time::sleep(REPEAT_PAUSE).await;
            send().await
        }
        result => result,
    }
}

/// The answer for a request that the cache has answered.
async fn answered(
    method: &Method,
    path: &str,
    response: CacheResponse,
    running: RunningRequest,
) -> Result<Response<Body>, Fault> {
    let small = path.strip_prefix('/').filter(|path| cache_path::is_small(path) && method == Method::GET);
    match (response.status().as_u16(), small) {
        (200, Some(path)) => whole(path, response).await,
        (200..=399 | 416, _) => Ok(forwarded(response, running)),
        (404 | 403 | 410, _) => Ok(text(StatusCode::NOT_FOUND, "absent\n")),
        // Nix would fail a build because of such a status.
        (status, _) => Err(Fault::Hidden(format!("status {status}"))),
    }
}

/// The answer with a small file. The relay passes it on when it is complete and Nix can read it.
async fn whole(path: &str, response: CacheResponse) -> Result<Response<Body>, Fault> {
    let hidden = |reason: String| Fault::Hidden(format!("the file is unusable: {reason}"));
    let (parts, body) = response.into_parts();
    let read = tokio::time::timeout(SMALL_TIMEOUT, body.read(MAX_SMALL)).await;
    let contents = match read {
        Ok(Ok(contents)) => contents,
        Ok(Err(error)) => return Err(hidden(error.to_string())),
        // The next file would take as long.
        Err(_) => {
            return Err(Fault::Away(format!(
                "no end of an answer within {} seconds",
                SMALL_TIMEOUT.as_secs()
            )));
        }
    };
    // The relay does not decompress.
    let fault = match parts.headers.contains_key(CONTENT_ENCODING) {
        true => None,
        false => cache_path::fault(path, &contents),
    };
    match fault {
        Some(reason) => Err(hidden(reason)),
        None => Ok(with_headers(parts.status, &parts.headers, Body::text(contents))),
    }
}

fn forwarded(response: CacheResponse, running: RunningRequest) -> Response<Body> {
    let (parts, body) = response.into_parts();
    with_headers(parts.status, &parts.headers, Body::forwarded(body, running))
}

/// An answer with those headers of a cache's answer that the relay forwards.
fn with_headers(status: StatusCode, headers: &HeaderMap, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    for name in RESPONSE_HEADERS {
        if let Some(value) = headers.get(name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}

/// The answer for a file that Nix cannot get, with a word about the reason. Nix fails a build without `nix-cache-info`.
fn absent(path: &str, reason: &'static str) -> Response<Body> {
    if path.strip_prefix('/') == Some(object_keys::CACHE_INFO) {
        return text(StatusCode::OK, CACHE_INFO);
    }
    text(StatusCode::NOT_FOUND, reason)
}

fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::text(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
