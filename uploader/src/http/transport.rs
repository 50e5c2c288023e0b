//! The one HTTP stack: connectors for the SDK and for readers without credentials.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::{Host, Url};

use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;

/// How long a connection may take to come about.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Certificates that are trusted beside the system's own.
#[derive(Clone, Default)]
pub(crate) struct Trust(Option<Vec<u8>>);

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.0.as_ref().map(Vec::len)).finish()
    }
}

impl Trust {
    /// Reads and checks a file of PEM certificates. Fails with an error of the configuration.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else { return Ok(Self(None)) };
        let what = || format!("cannot use the CA file `{}`", file.display());
        let pem =
            std::fs::read(file).map_err(|error| Error::permanent(Area::Config, what()).because(error))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::permanent(Area::Config, what()).because(error))?;
        if certificates.is_empty() {
            return Err(Error::permanent(Area::Config, what())
                .because("it has no certificate")
                .hint("the file needs blocks that begin with `-----BEGIN CERTIFICATE-----`"));
        }
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| Error::permanent(Area::Config, what()).because(error))?;
        }
        Ok(Self(Some(pem)))
    }
}

/// Makes connectors and keeps them, and with them their pools of connections, which clones share.
#[derive(Clone)]
pub(crate) struct Http {
    trust: Trust,
    tls: bool,
    proxy: bool,
    made: Arc<Mutex<Vec<(Timeouts, SharedHttpConnector)>>>,
}

type Timeouts = (Option<Duration>, Option<Duration>);

impl Http {
    /// For requests to the server of `url`: TLS where its scheme wants it; a proxy from the environment, except to
    /// this machine.
    pub(crate) fn to(url: &Url, trust: Trust) -> Self {
        let here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        Self::new(trust, url.scheme() == "https", !here)
    }

    /// `tls`: whether certificates are loaded; `proxy`: whether the environment may name one.
    pub(crate) fn new(trust: Trust, tls: bool, proxy: bool) -> Self {
        Self { trust, tls, proxy, made: Arc::default() }
    }

    /// The connector with these timeouts.
    pub(crate) fn connector(&self, settings: &HttpConnectorSettings) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        let mut made = lock(&self.made);
        if let Some((_, connector)) = made.iter().find(|(other, _)| *other == timeouts) {
            return connector.clone();
        }
        let connector = SharedHttpConnector::new(self.build(settings));
        made.push((timeouts, connector.clone()));
        connector
    }

    fn build(&self, settings: &HttpConnectorSettings) -> Connector {
        let mut store = TrustStore::empty().with_native_roots(self.tls);
        if let (true, Some(pem)) = (self.tls, &self.trust.0) {
            store.add_pem_certificate(pem.clone());
        }
        let builder = Connector::builder()
            .connector_settings(settings.clone())
            .proxy_config(if self.proxy { ProxyConfig::from_env() } else { ProxyConfig::disabled() })
            .tls_provider(Provider::Rustls(CryptoMode::Ring));
        match TlsContext::builder().with_trust_store(store).build() {
            Ok(context) => builder.tls_context(context).build(),
            Err(_) => builder.build(),
        }
    }
}

impl HttpClient for Http {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        self.connector(settings)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("tls", &self.tls).field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("ca.pem");
        for text in [
            "",
            "no certificate",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
        ] {
            std::fs::write(&file, text).expect("write");
            let error = Trust::read(Some(&file)).expect_err(text);
            assert_eq!(error.area(), Area::Config, "{error}");
        }
        assert!(Trust::read(Some(&dir.path().join("missing"))).is_err());
    }
}
