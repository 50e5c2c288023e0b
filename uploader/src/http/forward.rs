//! Forwarding of requests to the server of a cache. Answers are streams.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use http::header::{HeaderValue, LOCATION};
use url::Url;

use super::body::Body;
use super::transport::{Request, Response, Timeouts, Transport};
use super::{diagnosis, trust::Trust};
use crate::base::error::{Area, Cause, Error, Result};
use crate::base::lock::lock;

/// Why a request has no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// There is no connection to the server, or the time ran out.
    Unreachable(Error),
    /// The connection broke, or the answer is malformed. Another request may be answered.
    Broken(Error),
}

/// Forwards requests to one server.
#[derive(Debug)]
pub struct Forwarder {
    url: Url,
    trust: Trust,
    timeouts: Timeouts,
    /// Made by the first request, and again by the first request after a failure.
    transport: Mutex<Option<Transport>>,
}

impl Forwarder {
    /// Forwards to the URLs below `url`, whose scheme is `http` or `https`. `connect` limits the time until a connection
    /// is established, `answer` the time until the head of an answer. The certificates of `ca_file` are trusted in
    /// addition to the system's certificates.
    ///
    /// Fails if the URL or the file cannot be used.
    pub fn new(url: &str, connect: Duration, answer: Duration, ca_file: Option<&Path>) -> Result<Self> {
        let fault = |cause: &str| {
            Error::permanent(Area::Usage, format!("cannot use the cache `{url}`")).because(cause)
        };
        let parsed = Url::parse(url).map_err(|error| fault(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(fault("its scheme is neither `http` nor `https`"));
        }
        let timeouts = Timeouts { connect, answer: Some(answer) };
        Ok(Self { url: parsed, trust: Trust::read(ca_file)?, timeouts, transport: Mutex::default() })
    }

    /// Requests `rest`, which begins with a slash, below the URL. `headers` are the client's headers.
    ///
    /// An answer with any status is an answer. A `Location` header becomes an absolute URL. After a failure the
    /// connections are not used again: when a machine has moved to another network, all of them are dead.
    pub async fn send(
        &self,
        method: &str,
        rest: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response, NoAnswer> {
        let base = self.url.as_str().split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let target = format!("{base}{rest}");
        let what = || format!("cannot read `{target}`");
        let request = compose(method, &target, headers)
            .map_err(|error| NoAnswer::Broken(Error::permanent(Area::Usage, what()).because(error)))?;
        let mut response = self.transport().send(request).await.map_err(|error| {
            *lock(&self.transport) = None;
            let reason = diagnosis::explain(what(), &error);
            match diagnosis::is_unreachable(&error) {
                true => NoAnswer::Unreachable(reason),
                false => NoAnswer::Broken(reason),
            }
        })?;
        // A relative location is relative to the server's URL, which the client does not know.
        let absolute = |location: &HeaderValue| {
            let location =
                Url::parse(&target).ok()?.join(std::str::from_utf8(location.as_bytes()).ok()?).ok()?;
            HeaderValue::try_from(String::from(location)).ok()
        };
        if let Some(location) = response.headers().get(LOCATION).and_then(absolute) {
            response.headers_mut().insert(LOCATION, location);
        }
        Ok(response)
    }

    fn transport(&self) -> Transport {
        let make = || Transport::to(&self.url, &self.trust, self.timeouts);
        lock(&self.transport).get_or_insert_with(make).clone()
    }
}

fn compose(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Request, Cause> {
    let mut request = http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(Body::empty())?)
}
