//! Reading as a client without credentials does.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use bytes::{Bytes, BytesMut};
use url::Url;

use super::diagnosis;
use super::transport::{CONNECT_TIMEOUT, Http, Trust};
use crate::base::error::{Area, Cause, Error, Result};
use crate::base::file::MAX_SMALL;
use crate::base::file::blocking;
use crate::base::lock::lock;

/// How long an answer may take altogether, redirects included.
const TOTAL: Duration = Duration::from_secs(60);
/// How many redirects are followed.
const REDIRECTS: usize = 5;

/// What a server answered, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status; 200 and 404 for files.
    pub status: u16,
    /// The body, at most 4 MiB; empty for a HEAD.
    pub body: Bytes,
    /// The headers that are text, with lower-case names.
    pub headers: Vec<(String, String)>,
    /// Where the answer came from after redirects.
    pub url: String,
}

impl Answer {
    /// The first header of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Reads small objects over `http`, `https` and `file`, without credentials.
#[derive(Debug)]
pub struct PublicReader {
    trust: Trust,
    connections: Mutex<Vec<(String, Arc<Http>)>>,
}

impl PublicReader {
    /// Trusts the certificates of `ca_file` beside the system's own.
    ///
    /// Fails where that file cannot be used.
    pub fn new(ca_file: Option<&Path>) -> Result<Self> {
        Ok(Self { trust: Trust::read(ca_file)?, connections: Mutex::default() })
    }

    /// Reads what stands at `url`. Follows up to five redirects, but none from `https` to `http`.
    ///
    /// An answer of any status is an answer. Fails where there is none, saying whether the name was not resolved, the
    /// connection refused, TLS failed or time ran out, and where the body breaks off or is larger than 4 MiB.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        self.fetch("GET", url).await
    }

    /// Like [`get`](Self::get), without the body.
    pub async fn head(&self, url: &str) -> Result<Answer> {
        self.fetch("HEAD", url).await
    }

    async fn fetch(&self, method: &'static str, text: &str) -> Result<Answer> {
        let shown = without_user(text);
        let what = || format!("cannot read `{shown}`");
        let parse = |text: &str| {
            Url::parse(text).map_err(|error| Error::permanent(Area::Usage, what()).because(error))
        };
        let url = parse(text)?;
        match url.scheme() {
            "file" => self.file(method, &url, what()).await,
            "http" | "https" => match tokio::time::timeout(TOTAL, self.follow(method, url, what())).await {
                Ok(answer) => answer,
                Err(_) => Err(Error::transient(Area::Bucket, what())
                    .because(format!("no whole answer within {} seconds", TOTAL.as_secs()))),
            },
            _ => Err(Error::permanent(Area::Usage, what())
                .because("it is neither an `http`, an `https` nor a `file` URL")),
        }
    }

    async fn follow(&self, method: &'static str, mut url: Url, what: String) -> Result<Answer> {
        for _ in 0..=REDIRECTS {
            let response = self.request(method, &url, &what).await?;
            let status = response.status().as_u16();
            let location = response.headers().get("location").map(str::to_owned);
            let Some(location) = location.filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308)) else {
                return answer(response, method, url, what).await;
            };
            let refused = |why: &str| Err(Error::permanent(Area::Bucket, &what).because(why));
            let Ok(next) = url.join(&location) else {
                return refused("it redirects to something that is no URL");
            };
            match (url.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => url = next,
                ("https", "http") => return refused("it redirects from `https` to `http`"),
                _ => return refused("it redirects away from HTTP"),
            }
        }
        Err(Error::permanent(Area::Bucket, what).because(format!("it redirects more than {REDIRECTS} times")))
    }

    async fn request(&self, method: &'static str, url: &Url, what: &str) -> Result<HttpResponse> {
        let fault = |error: Cause| Error::permanent(Area::Usage, what).because(error);
        let mut target = url.clone();
        target.set_fragment(None);
        let mut request = HttpRequest::new(SdkBody::empty());
        request.set_method(method).map_err(|error| fault(error.into()))?;
        request.set_uri(target.as_str()).map_err(|error| fault(error.into()))?;
        request.headers_mut().insert("user-agent", concat!("larder/", env!("CARGO_PKG_VERSION")));
        let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
        let connector = self.to(url).connector(&settings);
        connector.call(request).await.map_err(|error| diagnosis::explain(what.to_owned(), &error))
    }

    /// Connections to the server of `url`.
    fn to(&self, url: &Url) -> Arc<Http> {
        let origin = url.origin().ascii_serialization();
        let mut connections = lock(&self.connections);
        if let Some((_, http)) = connections.iter().find(|(other, _)| *other == origin) {
            return http.clone();
        }
        let http = Arc::new(Http::to(url, self.trust.clone()));
        connections.push((origin, http.clone()));
        http
    }

    async fn file(&self, method: &str, url: &Url, what: String) -> Result<Answer> {
        let Ok(path) = url.to_file_path() else {
            return Err(Error::permanent(Area::Usage, what).because("it names no file of this machine"));
        };
        let limit = if method == "HEAD" { 0 } else { MAX_SMALL + 1 };
        let too_large = Error::permanent(Area::Bucket, &what).because(TOO_LARGE);
        let body = blocking(what, move || {
            let file = match File::open(&path) {
                Ok(file) if file.metadata()?.is_file() => file,
                Ok(_) => return Ok(None),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let mut body = Vec::new();
            file.take(limit).read_to_end(&mut body).map(|_| Some(body))
        })
        .await?;
        if body.as_ref().is_some_and(|body| body.len() as u64 > MAX_SMALL) {
            return Err(too_large);
        }
        let status = if body.is_some() { 200 } else { 404 };
        Ok(Answer {
            status,
            body: body.unwrap_or_default().into(),
            headers: Vec::new(),
            url: url.to_string(),
        })
    }
}

const TOO_LARGE: &str = "it is larger than 4 MiB, which no small object of a cache is";

async fn answer(response: HttpResponse, method: &str, url: Url, what: String) -> Result<Answer> {
    let status = response.status().as_u16();
    let headers: Vec<(String, String)> = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = BytesMut::new();
    if method != "HEAD" {
        let mut stream = ByteStream::new(response.into_body());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| diagnosis::explain(what.clone(), &error))?;
            if (body.len() + chunk.len()) as u64 > MAX_SMALL {
                return Err(Error::permanent(Area::Bucket, what).because(TOO_LARGE));
            }
            body.extend_from_slice(&chunk);
        }
    }
    Ok(Answer { status, body: body.freeze(), headers, url: without_user(url.as_str()) })
}

/// A URL as it may be shown.
fn without_user(text: &str) -> String {
    match text.split_once("://").map(|(scheme, rest)| (scheme, rest.split_once('/').unwrap_or((rest, "")))) {
        Some((scheme, (host, path))) if host.contains('@') => {
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://…@{host}/{path}")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
