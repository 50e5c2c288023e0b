//! Signatures, and the credentials and the clock that they need.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use crate::base::lock::lock;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

/// For how long credentials are used that do not say when they expire.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// How long before they expire others are looked for.
const EARLY: Duration = Duration::from_secs(10);
/// How long looking for credentials may take.
const LOADING: Duration = Duration::from_secs(10);
/// The least difference between two clocks that explains a refused signature.
const SKEW: Duration = Duration::from_secs(4 * 60);

/// Signs requests with the credentials of one provider, which it asks as rarely as it may.
pub(super) struct Signer {
    credentials: SharedCredentialsProvider,
    region: String,
    service: String,
    kept: Mutex<Option<Kept>>,
    loading: tokio::sync::Mutex<()>,
    /// By how many milliseconds the server's clock is ahead, where it has refused ours.
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
        // One of those that wait asks; the others find what it got.
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

    /// Adds the signature to a request whose other headers are complete. Fails for what is no request.
    pub(super) fn sign(
        &self,
        request: &mut HttpRequest,
        payload: SignableBody<'_>,
        identity: &Identity,
        now: SystemTime,
    ) -> Result<(), String> {
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
            .build()
            .map_err(|error| error.to_string())?
            .into();
        let signable =
            SignableRequest::new(request.method(), request.uri(), request.headers().iter(), payload)
                .map_err(|error| error.to_string())?;
        let (instructions, _) = sign(signable, &params).map_err(|error| error.to_string())?.into_parts();
        for header in instructions.into_parts().0 {
            request
                .headers_mut()
                .try_insert(header.name(), header.value().to_owned())
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Takes notice of a refusal; says whether the request would now be signed in another way.
    ///
    /// Credentials that the server does not know, or no longer, are looked for again by the next request.
    pub(super) fn heed(&self, code: &str, headers: &Headers) -> bool {
        match code {
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidAccessKeyId" => {
                *self.slot() = None;
                false
            }
            "RequestTimeTooSkewed" | "SignatureDoesNotMatch" => self.set_clock(headers, SystemTime::now()),
            _ => false,
        }
    }

    /// Goes by the server's clock where it is far from what was signed; says whether it is.
    fn set_clock(&self, headers: &Headers, now: SystemTime) -> bool {
        // What comes from a cache has an old date.
        let date = headers.get("date").filter(|_| headers.get("age").is_none());
        let Some(server) = date
            .and_then(|date| DateTime::from_str(date, Format::HttpDate).ok())
            .and_then(|date| SystemTime::try_from(date).ok())
        else {
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
