//! The connection to a bucket: its address, and the sender of its requests.

use std::path::PathBuf;
use std::sync::Arc;

use http::Method;
use url::Url;

use super::error::failure;
use super::expiry::OldSignatures;
use super::reply::Reply;
use super::request::Request;
use super::sender::Sender;
use super::signer::Signer;
use super::throttle::Throttle;
use super::{credentials, place};
use crate::base::error::{Area, Error, Result};
use crate::bucket::address::S3Address;
use crate::bucket::interface::Fence;
use crate::http::{Timeouts, Transport, Trust};

/// The settings of a bucket that are not part of its address.
#[derive(Clone, Debug)]
pub struct Options {
    /// A file with credentials, used instead of the environment: assignments of `AWS_ACCESS_KEY_ID` and
    /// `AWS_SECRET_ACCESS_KEY`, the two values on a line each, or the format of `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
    /// PEM certificates that are trusted in addition to the system's certificates.
    pub ca_file: Option<PathBuf>,
    /// How often a request is sent before its transient failure is reported; at least once.
    pub max_attempts: u32,
    /// The largest object that is copied with one request, in bytes. Larger ones are copied in parts of this size. S3 takes
    /// parts from 5 MiB to 5 GiB.
    pub copied_at_once: u64,
    /// Whether changes that have a fence are signed with an expiry of their own. `None`: if the server takes old signatures.
    pub expiring_signatures: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            credentials_file: None,
            ca_file: None,
            max_attempts: 4,
            copied_at_once: 1 << 30,
            expiring_signatures: None,
        }
    }
}

/// All that an operation on the bucket needs.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) address: S3Address,
    /// The region of the bucket.
    pub(super) region: String,
    /// The largest object that is copied with one request, in bytes.
    pub(super) copied_at_once: u64,
    sender: Arc<Sender>,
    /// Is asked about each attempt of a change.
    fence: Option<Arc<dyn Fence>>,
}

impl Connection {
    /// Prepares requests to the bucket at `address`. Reads configuration files, but sends nothing.
    ///
    /// Fails if the files that `options` names cannot be used. The first operation reports missing credentials.
    pub(super) async fn open(address: S3Address, options: &Options) -> Result<Self> {
        let trust = Trust::read(options.ca_file.as_deref())?;
        let region = credentials::region(&address).await;
        let credentials =
            credentials::provider(&address, options.credentials_file.as_deref(), &region, &trust)?;
        let place = place::of(&address, region.as_ref()).await?;
        // A virtual host such as `bucket.localhost` is on the machine of the endpoint.
        let server = address.endpoint.as_ref().unwrap_or(&place.url);
        let url = Url::parse(server).map_err(|error| {
            Error::permanent(Area::Config, format!("cannot use the endpoint `{server}`")).because(error)
        })?;
        let on_aws = address.endpoint.is_none();
        let sender = Sender {
            transport: Transport::to(&url, &trust, Timeouts::default()),
            signer: Signer::new(credentials, place.region, place.service),
            bucket: place.url,
            attempts: options.max_attempts.max(1),
            throttle: Throttle::default(),
            // AWS refuses old signatures.
            old_signatures: OldSignatures::new(options.expiring_signatures.or(on_aws.then_some(false))),
        };
        let (region, copied_at_once) = (region.to_string(), options.copied_at_once);
        Ok(Self { address, region, copied_at_once, sender: Arc::new(sender), fence: None })
    }

    /// The same connection, with this fence or without a fence.
    pub(super) fn fenced(&self, fence: Option<Arc<dyn Fence>>) -> Self {
        let Self { address, region, copied_at_once, sender, .. } = self;
        let (address, region, sender) = (address.clone(), region.clone(), sender.clone());
        Self { address, region, copied_at_once: *copied_at_once, sender, fence }
    }

    /// The operation `verb` on the object `key`, for an error.
    pub(super) fn what(&self, verb: &str, key: &str) -> String {
        format!("cannot {verb} `{key}` in `{}`", self.address)
    }

    /// A request about an object. `key` is relative to the prefix of the address.
    pub(super) fn request(&self, method: Method, key: &str) -> Request<'static> {
        Request::new(method, self.address.full_key(key))
    }

    /// Sends a request until there is a final answer. Fails without an answer; `what` names the operation for the error.
    pub(super) async fn send(&self, request: Request<'_>, what: impl Fn() -> String) -> Result<Reply> {
        let is_change = !matches!(request.method, Method::GET | Method::HEAD);
        let fence = self.fence.as_deref().filter(|_| is_change);
        self.sender.send(&request, fence).await.map_err(|error| failure(what(), error))
    }
}
