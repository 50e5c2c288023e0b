//! Connections to servers: pools, TLS, proxies and timeouts.

use std::fmt;
use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use thiserror::Error;
use url::{Host, Url};

use super::body::Body;
use super::trust::Trust;
use crate::base::error::Cause;

/// The longest time that a connection may take to be established.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to a server.
pub(crate) type Request = http::Request<Body>;
/// The answer of a server.
pub type Response = http::Response<Body>;

/// The time limits of each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// For establishing a connection.
    pub(crate) connect: Duration,
    /// From the request to the head of its answer, if the caller does not limit that itself.
    pub(crate) answer: Option<Duration>,
}

impl Default for Timeouts {
    /// Limits only how long a connection takes to be established.
    fn default() -> Self {
        Self { connect: CONNECT_TIMEOUT, answer: None }
    }
}

/// Why a request has no answer.
#[derive(Debug, Error)]
pub(crate) enum SendError {
    /// The request is malformed.
    #[error(transparent)]
    Unsendable(Cause),
    /// The connection failed, or the server sent no valid answer in time.
    #[error(transparent)]
    NoAnswer(Cause),
}

/// A pool of connections to one server. Clones share the pool.
#[derive(Clone)]
pub(crate) struct Transport(SharedHttpConnector);

impl Transport {
    /// Prepares connections to the server of `url`. Loads certificates if the scheme is `https`. Uses a proxy that the
    /// environment names, except for servers on this machine. Sends nothing.
    pub(crate) fn to(url: &Url, trust: &Trust, timeouts: Timeouts) -> Self {
        let on_this_machine = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let mut settings = HttpConnectorSettings::builder().connect_timeout(timeouts.connect);
        settings.set_read_timeout(timeouts.answer);
        Self(connector(trust, url.scheme() == "https", !on_this_machine, &settings.build()))
    }

    /// Sends a request and waits for the head of its answer. An answer with any status is an answer.
    pub(crate) async fn send(&self, request: Request) -> Result<Response, SendError> {
        let request = HttpRequest::try_from(request.map(Body::into_sdk))
            .map_err(|error| SendError::Unsendable(error.into()))?;
        let response = self.0.call(request).await.map_err(|error| match error.is_user() {
            true => SendError::Unsendable(error.into()),
            false => SendError::NoAnswer(error.into()),
        })?;
        let response = response.try_into_http1x().map_err(|error| SendError::NoAnswer(error.into()))?;
        Ok(response.map(Body::from_sdk))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// A pool of connections. `tls` says whether to load certificates, `proxy` whether the environment may name a proxy.
pub(super) fn connector(
    trust: &Trust,
    tls: bool,
    proxy: bool,
    settings: &HttpConnectorSettings,
) -> SharedHttpConnector {
    let mut store = TrustStore::empty().with_native_roots(tls);
    if let (true, Some(pem)) = (tls, trust.pem()) {
        store.add_pem_certificate(pem);
    }
    let builder = Connector::builder()
        .connector_settings(settings.clone())
        .proxy_config(if proxy { ProxyConfig::from_env() } else { ProxyConfig::disabled() })
        .tls_provider(Provider::Rustls(CryptoMode::Ring));
    SharedHttpConnector::new(match TlsContext::builder().with_trust_store(store).build() {
        Ok(context) => builder.tls_context(context).build(),
        Err(_) => builder.build(),
    })
}
