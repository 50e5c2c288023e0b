//! Answers one request.

use std::time::{Duration, Instant};

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::activity::RunningRequest;
use super::body::Body;
use super::caches::{Cache, Caches};
use super::event::Event;
use crate::format::object_keys;

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

/// The `nix-cache-info` of an unavailable cache. Nix remembers the priority for a week, so it is the priority that
/// `larder init` gives a bucket.
const CACHE_INFO: &str = "WantMassQuery: 1\nPriority: 30\n";

/// Answers a request. It counts as running until the answer's body is sent.
pub(super) async fn respond<B>(
    caches: &Caches,
    request: http::Request<B>,
    running: RunningRequest,
) -> Response<Body> {
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
        return text(StatusCode::NOT_FOUND, "no such cache\n");
    };
    if !cache.health.may_ask(Instant::now()) {
        return unavailable(path);
    }
    match ask(cache, request.method(), path, request.headers()).await {
        Ok(response) => {
            if cache.health.answered() {
                caches.notify(Event::Available { cache: &cache.name });
            }
            answered(caches, cache, path, response, running)
        }
        Err(reason) => {
            if cache.health.failed(Instant::now()) {
                caches.notify(Event::Unavailable { cache: &cache.name, reason });
            }
            unavailable(path)
        }
    }
}

/// The answer of a cache.
type CacheResponse = Response<crate::http::Body>;

/// Sends a request to a cache. The error is the reason why the cache counts as unavailable.
async fn ask(
    cache: &Cache,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<CacheResponse, String> {
    let headers: Vec<_> =
        REQUEST_HEADERS.iter().filter_map(|name| Some((*name, headers.get(*name)?.to_str().ok()?))).collect();
    let begun = Instant::now();
    let send = || async {
        let response = cache.server.send(method.as_str(), path, &headers).await;
        let response = response.map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            status @ (429 | 500..) => Err(format!("status {status}")),
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
fn answered(
    caches: &Caches,
    cache: &Cache,
    path: &str,
    response: CacheResponse,
    running: RunningRequest,
) -> Response<Body> {
    match response.status().as_u16() {
        200..=399 | 416 => forwarded(response, running),
        404 | 403 | 410 => text(StatusCode::NOT_FOUND, "absent\n"),
        // Nix would fail a build because of such a status.
        status => {
            caches.notify(Event::Refused { cache: &cache.name, path, status });
            text(StatusCode::NOT_FOUND, "refused\n")
        }
    }
}

fn forwarded(response: CacheResponse, running: RunningRequest) -> Response<Body> {
    let mut headers = HeaderMap::new();
    for name in RESPONSE_HEADERS {
        if let Some(value) = response.headers().get(name) {
            headers.insert(name, value.clone());
        }
    }
    let status = response.status();
    let mut answer = Response::new(Body::forwarded(response.into_body(), running));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// The answer in place of an unavailable cache.
fn unavailable(path: &str) -> Response<Body> {
    if path.strip_prefix('/') == Some(object_keys::CACHE_INFO) {
        return text(StatusCode::OK, CACHE_INFO);
    }
    text(StatusCode::NOT_FOUND, "away\n")
}

fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::text(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
