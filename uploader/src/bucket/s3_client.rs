//! The SDK's client, with every limit set on purpose.

use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::region::Region;
use url::Url;

use super::address::S3Address;
use super::http::{CONNECT_TIMEOUT, Http, Trust};
use super::s3_credentials;
use crate::error::{Area, Error, Result};

/// How long one attempt of a request without a large body may take.
const ATTEMPT: Duration = Duration::from_secs(60);
/// Assembling thousands of parts takes some servers minutes.
const ASSEMBLY: Duration = Duration::from_secs(600);
/// How long a transfer may stand still.
const STALL: Duration = Duration::from_secs(30);
/// The slowest transfer of a body that is waited for, in bytes per second.
const SLOWEST: u64 = 32 << 10;

/// What is needed beside the address to reach a bucket.
#[derive(Clone, Debug)]
pub struct Options {
    /// Credentials instead of those of the environment: assignments of `AWS_ACCESS_KEY_ID` and
    /// `AWS_SECRET_ACCESS_KEY`, the two values on a line each, or the format of `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
    /// PEM certificates that are trusted beside the system's own.
    pub ca_file: Option<PathBuf>,
    /// How often a request is sent before its transient failure is reported; at least once.
    pub max_attempts: u32,
    /// Whether checksums are sent and compared that the protocol leaves to choice. Off by default, since some
    /// servers refuse them; the signature covers the bytes in any case.
    pub checksums: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { credentials_file: None, ca_file: None, max_attempts: 4, checksums: false }
    }
}

/// Builds the client. Reads files, but sends nothing.
pub(super) async fn build(address: &S3Address, options: &Options) -> Result<(Client, Region)> {
    let trust = Trust::read(options.ca_file.as_deref())?;
    let region = s3_credentials::region(address).await;
    let credentials =
        s3_credentials::provider(address, options.credentials_file.as_deref(), &region, &trust)?;
    let http = match &address.endpoint {
        Some(endpoint) => {
            let url = Url::parse(endpoint).map_err(|error| {
                Error::permanent(Area::Config, format!("cannot use the endpoint `{endpoint}`")).because(error)
            })?;
            Http::to(&url, trust)
        }
        None => Http::new(trust, true, true),
    };
    let (request, response) = if options.checksums {
        (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
    } else {
        (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired)
    };
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region.clone())
        .credentials_provider(credentials)
        .http_client(http)
        .force_path_style(address.path_style())
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(options.max_attempts.max(1))
                .with_initial_backoff(Duration::from_millis(250)),
        )
        .timeout_config(timeouts(ATTEMPT))
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL).build())
        .request_checksum_calculation(request)
        .response_checksum_validation(response);
    if let Some(endpoint) = &address.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok((Client::from_conf(config.build()), region))
}

/// For a request with a body of this size: time grows with it.
pub(super) fn for_body(size: usize) -> Builder {
    let bytes = u64::try_from(size).unwrap_or(u64::MAX);
    Builder::new().timeout_config(timeouts(ATTEMPT + Duration::from_secs(bytes / SLOWEST)))
}

/// For the end of a multipart upload.
pub(super) fn for_assembly() -> Builder {
    Builder::new().timeout_config(timeouts(ASSEMBLY))
}

fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(attempt).build()
}
