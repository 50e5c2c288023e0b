//! The HTTP client of the SDK's credentials providers.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::transport::connector;
use super::trust::Trust;
use crate::base::lock::lock;

/// The timeouts for a connection and for the head of an answer.
type Limits = (Option<Duration>, Option<Duration>);

/// Makes one pool of connections for each pair of timeouts that a provider asks for. Clones share the pools.
#[derive(Clone)]
pub(crate) struct CredentialsClient {
    trust: Trust,
    proxy: bool,
    made: Arc<Mutex<Vec<(Limits, SharedHttpConnector)>>>,
}

impl CredentialsClient {
    /// `proxy` says whether the environment may name a proxy.
    pub(crate) fn new(trust: Trust, proxy: bool) -> Self {
        Self { trust, proxy, made: Arc::default() }
    }
}

impl HttpClient for CredentialsClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let limits = (settings.connect_timeout(), settings.read_timeout());
        let mut made = lock(&self.made);
        if let Some((_, connector)) = made.iter().find(|(other, _)| *other == limits) {
            return connector.clone();
        }
        let connector = connector(&self.trust, true, self.proxy, settings);
        made.push((limits, connector.clone()));
        connector
    }
}

impl fmt::Debug for CredentialsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsClient").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}
