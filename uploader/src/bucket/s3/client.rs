//! The ways to a bucket: our own for requests about objects, and the SDK's client, with every limit set on purpose.

use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::endpoint::{DefaultResolver, Endpoint, Params, ResolveEndpoint};
use aws_sdk_s3::config::{BehaviorVersion, Builder, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_runtime_api::client::http::HttpConnectorSettings;
use aws_smithy_types::Document;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::region::Region;
use url::Url;

use super::credentials;
use super::sender::{ATTEMPT, Sender};
use super::signer::Signer;
use super::throttle::Throttle;
use crate::base::error::{Area, Error, Result, chain};
use crate::bucket::address::S3Address;
use crate::http::transport::{CONNECT_TIMEOUT, Http, Trust};

/// Assembling thousands of parts takes some servers minutes.
const ASSEMBLY: Duration = Duration::from_secs(600);

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
}

impl Default for Options {
    fn default() -> Self {
        Self { credentials_file: None, ca_file: None, max_attempts: 4 }
    }
}

/// The ways to the bucket, and its region. Reads files, but sends nothing.
pub(super) async fn build(address: &S3Address, options: &Options) -> Result<(Client, Sender, Region)> {
    let trust = Trust::read(options.ca_file.as_deref())?;
    let region = credentials::region(address).await;
    let credentials = credentials::provider(address, options.credentials_file.as_deref(), &region, &trust)?;
    let http = match &address.endpoint {
        Some(endpoint) => {
            let url = Url::parse(endpoint).map_err(|error| {
                Error::permanent(Area::Config, format!("cannot use the endpoint `{endpoint}`")).because(error)
            })?;
            Http::to(&url, trust)
        }
        None => Http::new(trust, true, true),
    };
    let attempts = options.max_attempts.max(1);
    let place = place(address, &region).await?;
    let of_scheme = |name, default: &str| of_scheme(&place, name).unwrap_or(default).to_owned();
    let (region_to_sign, service) =
        (of_scheme("signingRegion", region.as_ref()), of_scheme("signingName", "s3"));
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let sender = Sender {
        connector: http.connector(&settings),
        signer: Signer::new(credentials.clone(), region_to_sign, service),
        bucket: place.url().trim_end_matches('/').to_owned(),
        attempts,
        throttle: Throttle::default(),
    };
    // No checksums that the protocol leaves to choice: some servers refuse them.
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region.clone())
        .credentials_provider(credentials)
        .http_client(http)
        .force_path_style(address.path_style())
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(attempts)
                .with_initial_backoff(Duration::from_millis(250)),
        )
        .timeout_config(timeouts(ATTEMPT))
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = endpoint(address) {
        config = config.endpoint_url(endpoint);
    }
    Ok((Client::from_conf(config.build()), sender, region))
}

/// Where the SDK's rules place the bucket: the URL, and how requests to it are signed.
async fn place(address: &S3Address, region: &Region) -> Result<Endpoint> {
    let fault = |cause: String| {
        Error::permanent(Area::Config, format!("cannot use the address `{address}`")).because(cause)
    };
    let params = Params::builder()
        .bucket(&address.bucket)
        .region(region.as_ref())
        .set_endpoint(endpoint(address))
        .force_path_style(address.path_style())
        .disable_s3_express_session_auth(true)
        .build()
        .map_err(|error| fault(chain(&error)))?;
    DefaultResolver::new().resolve_endpoint(&params).await.map_err(|error| fault(error.to_string()))
}

/// With a slash at its end, which the SDK's rules do not put between a path in it and the bucket's name.
fn endpoint(address: &S3Address) -> Option<String> {
    address.endpoint.as_ref().map(|endpoint| format!("{endpoint}/"))
}

/// A property of the first way to sign that the rules name.
fn of_scheme<'a>(place: &'a Endpoint, name: &str) -> Option<&'a str> {
    let schemes = place.properties().get("authSchemes")?;
    let Document::Array(schemes) = schemes else { return None };
    schemes.first()?.as_object()?.get(name)?.as_string()
}

/// For the end of a multipart upload.
pub(super) fn for_assembly() -> Builder {
    Builder::new().timeout_config(timeouts(ASSEMBLY))
}

fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(attempt).build()
}
