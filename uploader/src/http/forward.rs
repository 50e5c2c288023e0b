//! Sending requests on to the server of a cache, answers as streams.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use url::Url;

use super::diagnosis;
use super::transport::{Http, Trust};
use crate::base::error::{Area, Cause, Error, Result};
use crate::base::lock::lock;

/// Sends requests on to one server.
#[derive(Debug)]
pub struct Forwarder {
    url: Url,
    trust: Trust,
    settings: HttpConnectorSettings,
    connections: Mutex<Http>,
}

impl Forwarder {
    /// To what lies below `url`, `http` or `https`. A connection may take `connect` to come about, the head of an answer
    /// may take `answer`; the certificates of `ca_file` are trusted beside the system's own.
    ///
    /// Fails where the URL or that file cannot be used.
    pub fn new(url: &str, connect: Duration, answer: Duration, ca_file: Option<&Path>) -> Result<Self> {
        let fault = |cause: &str| {
            Error::permanent(Area::Usage, format!("cannot use the cache `{url}`")).because(cause)
        };
        let parsed = Url::parse(url).map_err(|error| fault(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(fault("it is neither an `http` nor an `https` URL"));
        }
        let trust = Trust::read(ca_file)?;
        let settings = HttpConnectorSettings::builder().connect_timeout(connect).read_timeout(answer).build();
        let connections = Mutex::new(Http::to(&parsed, trust.clone()));
        Ok(Self { url: parsed, trust, settings, connections })
    }

    /// The answer to a request for `rest`, which begins with a slash, below the URL; `headers` are the client's own.
    ///
    /// An answer of any status is an answer; where it redirects, it does so to an absolute URL. After a failure,
    /// connections that may be dead are not used again: a machine that has moved to another network has only such ones.
    pub async fn send(&self, method: &str, rest: &str, headers: &[(&str, &str)]) -> Result<HttpResponse> {
        let base = self.url.as_str().split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let target = format!("{base}{rest}");
        let what = || format!("cannot read `{target}`");
        let fault = |error: Cause| Error::permanent(Area::Usage, what()).because(error);
        let mut request = HttpRequest::new(SdkBody::empty());
        request.set_method(method).map_err(|error| fault(error.into()))?;
        request.set_uri(target.as_str()).map_err(|error| fault(error.into()))?;
        for (name, value) in headers {
            request
                .headers_mut()
                .try_insert(name.to_string(), value.to_string())
                .map_err(|error| fault(error.into()))?;
        }
        let connector = self.connections().connector(&self.settings);
        let mut response = connector.call(request).await.map_err(|error| {
            *self.connections() = Http::to(&self.url, self.trust.clone());
            diagnosis::explain(what(), &error)
        })?;
        // As the server means it, not as seen from where it is passed on.
        let absolute = |location: &str| Url::parse(&target).and_then(|target| target.join(location));
        if let Some(Ok(location)) = response.headers().get("location").map(absolute) {
            response.headers_mut().insert("location", String::from(location));
        }
        Ok(response)
    }

    fn connections(&self) -> MutexGuard<'_, Http> {
        lock(&self.connections)
    }
}
