//! Reading as a client without credentials reads.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{LOCATION, USER_AGENT};
use url::Url;

use super::body::{Body, ReadError};
use super::transport::{Response, Timeouts, Transport};
use super::{diagnosis, trust::Trust};
use crate::base::error::{Area, Error, Result};
use crate::base::file::{MAX_SMALL, blocking};
use crate::base::lock::lock;

/// The time limit of a whole answer, with its redirects.
const TOTAL: Duration = Duration::from_secs(60);
/// The number of redirects that are followed.
const REDIRECTS: usize = 5;
const AGENT: &str = concat!("larder/", env!("CARGO_PKG_VERSION"));
const TOO_LARGE: &str = "it is larger than 4 MiB, which no small object of a cache is";

/// The answer of a server, with any status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status; 200 and 404 for files.
    pub status: u16,
    /// The body, at most 4 MiB; empty for a HEAD.
    pub body: Bytes,
    /// The headers whose values are text, with lower-case names.
    pub headers: Vec<(String, String)>,
    /// The URL of the answer, after redirects.
    pub url: String,
}

impl Answer {
    /// The first header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Reads small objects over `http`, `https` and `file`, without credentials.
#[derive(Debug)]
pub struct PublicReader {
    trust: Trust,
    /// One pool of connections for each origin.
    connections: Mutex<Vec<(String, Transport)>>,
}

impl PublicReader {
    /// Trusts the certificates of `ca_file` in addition to the system's certificates.
    ///
    /// Fails if the file cannot be used.
    pub fn new(ca_file: Option<&Path>) -> Result<Self> {
        Ok(Self { trust: Trust::read(ca_file)?, connections: Mutex::default() })
    }

    /// Reads the object at `url`. Follows up to five redirects, but none from `https` to `http`.
    ///
    /// An answer with any status is an answer. Fails without an answer, and says whether the name was not resolved, the
    /// connection was refused, TLS failed, or the time ran out. Also fails if the body breaks off or is larger than
    /// 4 MiB.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        self.fetch(Method::GET, url).await
    }

    /// Like [`get`](Self::get), without the body.
    pub async fn head(&self, url: &str) -> Result<Answer> {
        self.fetch(Method::HEAD, url).await
    }

    /// Begins to read an object of any size over `http` or `https`, with redirects as for [`get`](Self::get). An answer with
    /// any status is an answer.
    ///
    /// # Errors
    /// As for [`get`](Self::get), without a limit of the size.
    pub async fn open(&self, text: &str) -> Result<Download> {
        let what = format!("cannot read `{}`", without_user(text));
        let url = Url::parse(text).map_err(|error| Error::permanent(Area::Usage, &what).because(error))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::permanent(Area::Usage, what)
                .because("the scheme of the URL is neither `http` nor `https`"));
        }
        let (response, _) = within(what.clone(), self.follow(Method::GET, url, &what)).await?;
        Ok(Download { status: response.status().as_u16(), body: response.into_body(), what })
    }

    async fn fetch(&self, method: Method, text: &str) -> Result<Answer> {
        let what = format!("cannot read `{}`", without_user(text));
        let url = Url::parse(text).map_err(|error| Error::permanent(Area::Usage, &what).because(error))?;
        match url.scheme() {
            "file" => read_file(method, &url, what).await,
            "http" | "https" => {
                within(what.clone(), async {
                    let (response, url) = self.follow(method.clone(), url, &what).await?;
                    answer(response, method, url, what).await
                })
                .await
            }
            _ => Err(Error::permanent(Area::Usage, what)
                .because("the scheme of the URL is none of `http`, `https` and `file`")),
        }
    }

    /// The first answer that is no redirect, and its URL.
    async fn follow(&self, method: Method, mut url: Url, what: &str) -> Result<(Response, Url)> {
        for _ in 0..=REDIRECTS {
            let response = self.request(method.clone(), &url, what).await?;
            let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.headers().get(LOCATION).filter(|_| redirects) else {
                return Ok((response, url));
            };
            let refused = |why: &str| Err(Error::permanent(Area::Bucket, what).because(why));
            let Some(next) =
                std::str::from_utf8(location.as_bytes()).ok().and_then(|location| url.join(location).ok())
            else {
                return refused("the server redirects to an invalid URL");
            };
            match (url.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => url = next,
                ("https", "http") => return refused("the server redirects from `https` to `http`"),
                _ => return refused("the server redirects to a scheme other than HTTP"),
            }
        }
        Err(Error::permanent(Area::Bucket, what)
            .because(format!("the server redirects more than {REDIRECTS} times")))
    }

    async fn request(&self, method: Method, url: &Url, what: &str) -> Result<Response> {
        let mut target = url.clone();
        target.set_fragment(None);
        let request = http::Request::builder().method(method).uri(target.as_str()).header(USER_AGENT, AGENT);
        let request = request
            .body(Body::empty())
            .map_err(|error| Error::permanent(Area::Usage, what).because(error))?;
        let sent = self.transport_to(url).send(request).await;
        sent.map_err(|error| diagnosis::explain(what.to_owned(), &error))
    }

    /// The connections to the origin of `url`.
    fn transport_to(&self, url: &Url) -> Transport {
        let origin = url.origin().ascii_serialization();
        let mut connections = lock(&self.connections);
        if let Some((_, transport)) = connections.iter().find(|(other, _)| *other == origin) {
            return transport.clone();
        }
        let transport = Transport::to(url, &self.trust, Timeouts::default());
        connections.push((origin, transport.clone()));
        transport
    }
}

/// The result of `reading`, if it comes in time.
async fn within<T>(what: String, reading: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(TOTAL, reading).await.unwrap_or_else(|_| {
        Err(Error::transient(Area::Bucket, what)
            .because(format!("no complete answer within {} seconds", TOTAL.as_secs())))
    })
}

/// The answer of a server, whose body is read in parts.
#[derive(Debug)]
pub struct Download {
    /// The HTTP status.
    pub status: u16,
    body: Body,
    what: String,
}

impl Download {
    /// The next bytes of the body; `None` at its end.
    ///
    /// # Errors
    /// When the body breaks off, or no byte comes for a minute.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let what = self.what.clone();
        let body = &mut self.body;
        let next =
            async { body.next().await.map_err(|cause| diagnosis::explain(what.clone(), cause.as_ref())) };
        within(what.clone(), next).await
    }
}

async fn answer(response: Response, method: Method, url: Url, what: String) -> Result<Answer> {
    let status = response.status().as_u16();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).ok();
    let headers = response
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value.as_bytes())?)))
        .collect();
    let body = match method {
        Method::HEAD => Bytes::new(),
        _ => response.into_body().read(MAX_SMALL).await.map_err(|error| match error {
            ReadError::TooLarge => Error::permanent(Area::Bucket, what).because(TOO_LARGE),
            ReadError::Broken(cause) => diagnosis::explain(what, cause.as_ref()),
        })?,
    };
    Ok(Answer { status, body, headers, url: without_user(url.as_str()) })
}

async fn read_file(method: Method, url: &Url, what: String) -> Result<Answer> {
    let Ok(path) = url.to_file_path() else {
        return Err(Error::permanent(Area::Usage, what).because("the URL names no file of this machine"));
    };
    let limit = if method == Method::HEAD { 0 } else { MAX_SMALL + 1 };
    let too_large = Error::permanent(Area::Bucket, &what).because(TOO_LARGE);
    let body = blocking(what, move || bytes_of(path, limit)).await?;
    if body.as_ref().is_some_and(|body| body.len() as u64 > MAX_SMALL) {
        return Err(too_large);
    }
    let status = if body.is_some() { 200 } else { 404 };
    Ok(Answer { status, body: body.unwrap_or_default().into(), headers: Vec::new(), url: url.to_string() })
}

/// The first `limit` bytes of a file, or `None` if there is no such file.
fn bytes_of(path: PathBuf, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) if file.metadata()?.is_file() => file,
        Ok(_) => return Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut body = Vec::new();
    file.take(limit).read_to_end(&mut body).map(|_| Some(body))
}

/// A URL without a user and password.
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
