//! Signatures of requests, with the credentials and the clock that they need.

use std::borrow::Cow;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use http::header::{HeaderName, HeaderValue};

use super::error::precise;
use super::expiry::Manner;
use super::latest::Latest;
use super::reply::{Reply, Signature};
use super::request::encoded_value;
use super::xml::read::Fault;
use crate::base::clock::Moment;
use crate::base::error::Cause;
use crate::base::lock::lock;

/// How long credentials without an expiry date are used.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// How long before they expire credentials are replaced.
const EARLY: Duration = Duration::from_secs(10);
/// The time limit for loading credentials.
const LOADING: Duration = Duration::from_secs(10);
/// The smallest difference between two clocks that explains a refused signature.
const SKEW: Duration = Duration::from_secs(4 * 60);

/// How long a signature with an expiry of its own is valid: as long as servers usually take one without.
const VALID: Duration = Duration::from_secs(15 * 60);

/// Signs requests with the credentials of one provider. Asks the provider as rarely as possible.
pub(super) struct Signer {
    credentials: SharedCredentialsProvider,
    region: String,
    service: String,
    kept: Mutex<Option<Kept>>,
    loading: tokio::sync::Mutex<()>,
    /// By how many milliseconds the server's clock is ahead of this machine's clock. Zero unless the server has refused a
    /// signature while the clocks differed.
    ahead: AtomicI64,
    /// The latest time that the server's clock can show.
    latest: Mutex<Option<Latest>>,
}

struct Kept {
    credentials: Credentials,
    loaded: Moment,
}

impl Signer {
    pub(super) fn new(credentials: SharedCredentialsProvider, region: String, service: String) -> Self {
        let (kept, loading, ahead, latest) = Default::default();
        Self { credentials, region, service, kept, loading, ahead, latest }
    }

    /// The credentials and the time to sign with.
    pub(super) async fn prepare(&self) -> Result<Signature, CredentialsError> {
        let credentials = self.current(|_| true).await?;
        Ok(Signature { credentials, time: self.now(), made: Moment::now() })
    }

    /// The present time by the clock of the server, as far as it is known.
    fn now(&self) -> SystemTime {
        self.at(SystemTime::now())
    }

    /// The time of the server while the clock of this machine shows `now`. This clock may have jumped since the last answer
    /// of the server. So the time is never far above the latest that the server's clock can show.
    fn at(&self, now: SystemTime) -> SystemTime {
        let millis = self.ahead.load(Ordering::Relaxed);
        let span = Duration::from_millis(millis.unsigned_abs());
        let shifted = if millis < 0 { now.checked_sub(span) } else { now.checked_add(span) };
        let latest = lock(&self.latest).map(|latest| latest.at(Moment::now().since_start()) + SKEW);
        let shifted = shifted.unwrap_or(now);
        latest.map_or(shifted, |latest| latest.min(shifted))
    }

    /// The kept credentials if they are valid and `fit`, otherwise those that the provider has now.
    async fn current(&self, fit: impl Fn(&Credentials) -> bool) -> Result<Credentials, CredentialsError> {
        if let Some(kept) = self.kept(&fit) {
            return Ok(kept);
        }
        // One of the waiting requests asks the provider. The others find its credentials.
        let _loading = self.loading.lock().await;
        if let Some(kept) = self.kept(&fit) {
            return Ok(kept);
        }
        let credentials = tokio::time::timeout(LOADING, self.credentials.provide_credentials())
            .await
            .map_err(|_| CredentialsError::provider_timed_out(LOADING))??;
        *lock(&self.kept) = Some(Kept { credentials: credentials.clone(), loaded: Moment::now() });
        Ok(credentials)
    }

    fn kept(&self, fit: impl Fn(&Credentials) -> bool) -> Option<Credentials> {
        let slot = lock(&self.kept);
        let Kept { credentials, loaded } = slot.as_ref()?;
        let valid = match credentials.expiry() {
            Some(expiry) => self.now() + EARLY < expiry,
            None => loaded.elapsed() < LIFE,
        };
        (valid && fit(credentials)).then(|| credentials.clone())
    }

    /// Adds the signature to a request whose other headers are complete. A signature in the query leaves the body out. Fails if
    /// the request cannot be signed.
    pub(super) fn sign<B>(
        &self,
        request: &mut http::Request<B>,
        payload: SignableBody<'_>,
        signature: &Signature,
        manner: Manner,
    ) -> Result<(), Cause> {
        let (settings, payload) = match manner {
            Manner::Headers => (in_headers(), payload),
            Manner::Query => (in_query(), SignableBody::UnsignedPayload),
        };
        let identity = Identity::from(signature.credentials.clone());
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(signature.time)
            .settings(settings)
            .build()?
            .into();
        let headers =
            request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let signable =
            SignableRequest::new(request.method().as_str(), request.uri().to_string(), headers, payload)?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        let (headers, query) = instructions.into_parts();
        if !query.is_empty() {
            *request.uri_mut() = with_query(request.uri(), &query).parse()?;
        }
        for header in headers {
            let mut value = HeaderValue::from_str(header.value())?;
            value.set_sensitive(header.sensitive());
            request.headers_mut().insert(HeaderName::from_static(header.name()), value);
        }
        Ok(())
    }

    /// Takes notice of a refusal. Returns whether the same request would now be signed differently: with other
    /// credentials, or with another time.
    pub(super) async fn heed(&self, refusal: &Reply) -> bool {
        let Signature { credentials: refused, time, .. } = &refusal.signature;
        // Servers give different codes for a wrong time, and no code in the answer to a HEAD.
        let other_time = matches!(refusal.status, 400 | 401 | 403) && self.set_clock(refusal.date(), *time);
        if !rejects_credentials(&refusal.fault) {
            return other_time;
        }
        // Another request may have loaded new credentials in the meantime.
        let now = self.current(|kept| kept != refused).await;
        other_time || now.is_ok_and(|now| now != *refused)
    }

    /// Adopts the clock of the server if it was behind the time in the signature: a signature with a time in the future would be
    /// valid for longer. One with a time in the past does no harm.
    pub(super) fn see_clock(&self, answer: &Reply) {
        let Some(server) = answer.date() else { return };
        let (sent, answered) = (answer.signature.made.since_start(), Moment::now().since_start());
        let mut latest = lock(&self.latest);
        *latest = Some(Latest::learn(*latest, server, sent, answered));
        drop(latest);
        if server + SKEW < answer.signature.time {
            self.ahead.store(millis_ahead(server, SystemTime::now()), Ordering::Relaxed);
        }
    }

    /// Adopts the clock of the server if it is far from the time in the refused signature. Returns whether it is. Then
    /// another request may have adopted that clock in the meantime.
    fn set_clock(&self, server: Option<SystemTime>, signed: SystemTime) -> bool {
        let Some(server) = server else { return false };
        let far = millis_ahead(server, signed).unsigned_abs() > SKEW.as_millis() as u64;
        if far {
            self.ahead.store(millis_ahead(server, SystemTime::now()), Ordering::Relaxed);
        }
        far
    }
}

fn in_headers() -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings
}

fn in_query() -> SigningSettings {
    let mut settings = in_headers();
    settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(VALID);
    settings
}

/// A URI with further parameters.
fn with_query(uri: &http::Uri, query: &[(&str, Cow<'_, str>)]) -> String {
    let mut text = uri.to_string();
    for (name, value) in query {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.push_str(name);
        text.push('=');
        text.push_str(&encoded_value(value));
    }
    text
}

/// Whether the server does not accept the credentials, or not any more.
fn rejects_credentials(fault: &Fault) -> bool {
    let code = precise(&fault.code, &fault.message);
    matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidAccessKeyId"
            | "InvalidToken"
            | "SignatureDoesNotMatch"
            | "TokenRefreshRequired"
    )
}

/// By how many milliseconds `one` is ahead of `other`.
fn millis_ahead(one: SystemTime, other: SystemTime) -> i64 {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match one.duration_since(other) {
        Ok(ahead) => millis(ahead),
        Err(behind) => -millis(behind.duration()),
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("region", &self.region).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "signer_tests.rs"]
mod tests;
