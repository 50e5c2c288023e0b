//! One request and its answer.

use std::time::{Duration, Instant};

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, Method, Response, StatusCode};

use super::News;
use super::activity::Running;
use super::body::Body;
use super::caches::{Cache, Caches};
use crate::format::object_keys;

/// What of a request a cache is told. Not the encodings: a NAR that is encoded on its way cannot be resumed.
const ASKED: [&str; 6] =
    ["authorization", "if-modified-since", "if-none-match", "if-range", "range", "user-agent"];
/// What of an answer the client is told.
const TOLD: [&str; 9] = [
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
/// What fails faster than this is tried once more: a connection that the server had just closed, a server that was busy
/// for a moment.
const FAST: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);

/// The `nix-cache-info` of a cache that is away. Nix remembers it for a week, and the priority with it, so that is the
/// one that larder gives a bucket.
const INFO: &str = "WantMassQuery: 1\nPriority: 30\n";

/// Answers a request; `running` is held until that is done.
pub(super) async fn answer<B>(
    caches: &Caches,
    request: http::Request<B>,
    running: Running,
) -> Response<Body> {
    let method = request.method();
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this is for reading\n");
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if path == "/" {
        return text(StatusCode::OK, caches.summary());
    }
    let Some((cache, rest)) = caches.find(path) else {
        return text(StatusCode::NOT_FOUND, "no such cache\n");
    };
    if !cache.health.may_ask(Instant::now()) {
        return absent(rest);
    }
    match ask(cache, method.as_str(), rest, request.headers()).await {
        Ok(response) => {
            if cache.health.answered() {
                caches.tell(News::Back(&cache.name));
            }
            match response.status().as_u16() {
                200..=399 | 416 => passed(response, running),
                404 | 403 | 410 => text(StatusCode::NOT_FOUND, "absent\n"),
                status => {
                    // Nix would fail a build for it.
                    caches.tell(News::Refused(&cache.name, rest, status));
                    text(StatusCode::NOT_FOUND, "refused\n")
                }
            }
        }
        Err(why) => {
            if cache.health.failed(Instant::now()) {
                caches.tell(News::Away(&cache.name, why));
            }
            absent(rest)
        }
    }
}

/// The cache's answer, or why it counts as away.
async fn ask(
    cache: &Cache,
    method: &str,
    rest: &str,
    headers: &HeaderMap,
) -> Result<http::Response<crate::http::Body>, String> {
    let told: Vec<_> =
        ASKED.iter().filter_map(|name| Some((*name, headers.get(*name)?.to_str().ok()?))).collect();
    let begun = Instant::now();
    let once = || async {
        match cache.server.send(method, rest, &told).await {
            Ok(response) => match response.status().as_u16() {
                status @ (429 | 500..) => Err(format!("status {status}")),
                _ => Ok(response),
            },
            Err(error) => Err(error.to_string()),
        }
    };
    match once().await {
        Err(_) if begun.elapsed() < FAST => {
            tokio::time::sleep(PAUSE).await;
            once().await
        }
        result => result,
    }
}

fn passed(response: http::Response<crate::http::Body>, running: Running) -> Response<Body> {
    let mut headers = HeaderMap::new();
    for name in TOLD {
        if let Some(value) = response.headers().get(name) {
            headers.insert(name, value.clone());
        }
    }
    let status = response.status();
    let mut answer = Response::new(Body::passed(response.into_body(), running));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// What a cache that is away has.
fn absent(rest: &str) -> Response<Body> {
    if rest.strip_prefix('/').is_some_and(|key| key == object_keys::CACHE_INFO) {
        return text(StatusCode::OK, INFO);
    }
    text(StatusCode::NOT_FOUND, "away\n")
}

fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::text(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    response
}
