//! Signatures of requests, with the credentials and the clock that they need.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use http::header::{AGE, DATE, HeaderMap, HeaderName, HeaderValue};

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

/// Signs requests with the credentials of one provider. Asks the provider as rarely as possible.
pub(super) struct Signer {
    credentials: SharedCredentialsProvider,
    region: String,
    service: String,
    kept: Mutex<Option<Kept>>,
    loading: tokio::sync::Mutex<()>,
    /// By how many milliseconds the server's clock is ahead of this machine's clock. Zero unless the server has refused a
    /// signature for its date.
    ahead: AtomicI64,
}

struct Kept {
    identity: Identity,
    until: SystemTime,
}

impl Signer {
    pub(super) fn new(credentials: SharedCredentialsProvider, region: String, service: String) -> Self {
        let (kept, loading, ahead) = Default::default();
        Self { credentials, region, service, kept, loading, ahead }
    }

    /// The credentials to sign with.
    pub(super) async fn identity(&self) -> Result<Identity, CredentialsError> {
        if let Some(identity) = self.kept() {
            return Ok(identity);
        }
        // One of the waiting requests asks the provider. The others find its credentials.
        let _loading = self.loading.lock().await;
        if let Some(identity) = self.kept() {
            return Ok(identity);
        }
        let credentials = tokio::time::timeout(LOADING, self.credentials.provide_credentials())
            .await
            .map_err(|_| CredentialsError::provider_timed_out(LOADING))??;
        let until = credentials.expiry().map_or_else(|| SystemTime::now() + LIFE, |expiry| expiry - EARLY);
        let identity = Identity::from(credentials);
        *self.slot() = Some(Kept { identity: identity.clone(), until });
        Ok(identity)
    }

    fn kept(&self) -> Option<Identity> {
        let slot = self.slot();
        let kept = slot.as_ref().filter(|kept| SystemTime::now() < kept.until)?;
        Some(kept.identity.clone())
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        lock(&self.kept)
    }

    /// Adds the signature to a request whose other headers are complete. Fails if the request cannot be signed.
    pub(super) fn sign<B>(
        &self,
        request: &mut http::Request<B>,
        payload: SignableBody<'_>,
        identity: &Identity,
        now: SystemTime,
    ) -> Result<(), Cause> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = v4::SigningParams::builder()
            .identity(identity)
            .region(&self.region)
            .name(&self.service)
            .time(shifted(now, self.ahead.load(Ordering::Relaxed)))
            .settings(settings)
            .build()?
            .into();
        let headers =
            request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let signable =
            SignableRequest::new(request.method().as_str(), request.uri().to_string(), headers, payload)?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        for header in instructions.into_parts().0 {
            let mut value = HeaderValue::from_str(header.value())?;
            value.set_sensitive(header.sensitive());
            request.headers_mut().insert(HeaderName::from_static(header.name()), value);
        }
        Ok(())
    }

    /// Takes notice of a refusal. Returns whether the same request would now be signed differently.
    ///
    /// If the server does not know the credentials, or they have expired, the next request loads credentials again.
    pub(super) fn heed(&self, code: &str, headers: &HeaderMap) -> bool {
        match code {
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidAccessKeyId" => {
                *self.slot() = None;
                false
            }
            "RequestTimeTooSkewed" | "SignatureDoesNotMatch" => self.set_clock(headers, SystemTime::now()),
            _ => false,
        }
    }

    /// Adopts the server's clock if it is far from the signed date. Returns whether it is.
    fn set_clock(&self, headers: &HeaderMap, now: SystemTime) -> bool {
        // An answer from a cache has an old date.
        let date = headers.get(DATE).filter(|_| !headers.contains_key(AGE));
        let Some(server) = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok()) else {
            return false;
        };
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let ahead = match server.duration_since(now) {
            Ok(ahead) => millis(ahead),
            Err(behind) => -millis(behind.duration()),
        };
        let before = self.ahead.load(Ordering::Relaxed);
        let far = ahead.abs_diff(before) > SKEW.as_millis() as u64;
        if far {
            self.ahead.store(ahead, Ordering::Relaxed);
        }
        far
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("region", &self.region).finish_non_exhaustive()
    }
}

fn shifted(time: SystemTime, millis: i64) -> SystemTime {
    let span = Duration::from_millis(millis.unsigned_abs());
    let shifted = if millis < 0 { time.checked_sub(span) } else { time.checked_add(span) };
    shifted.unwrap_or(time)
}

#[cfg(test)]
#[path = "signer_tests.rs"]
mod tests;
