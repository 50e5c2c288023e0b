//! Answers of an S3 server, and failures to get one.

use std::fmt;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use bytes::Bytes;
use http::HeaderMap;

use super::xml::read::Fault;
use crate::base::clock::Moment;
use crate::base::error::{Cause, Error};

/// What a request is signed with.
#[derive(Clone)]
pub(super) struct Signature {
    pub(super) credentials: Credentials,
    /// The time by the clock of the server, as far as it is known.
    pub(super) time: SystemTime,
    /// When the signature was made.
    pub(super) made: Moment,
}

impl fmt::Debug for Signature {
    /// Shows no credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signature").field("time", &self.time).finish_non_exhaustive()
    }
}

/// The answer of the server, with any status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// Empty for a HEAD and for a refusal.
    pub(super) body: Bytes,
    /// Empty unless the answer is a refusal.
    pub(super) fault: Fault,
    /// What the request was signed with.
    pub(super) signature: Signature,
}

impl Reply {
    /// Whether the server did what the request asks. The body of a 200 may hold an error: a server that has begun to
    /// answer cannot change its status.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status) && self.fault.code.is_empty()
    }

    /// Status and error code, for `match`.
    pub(super) fn answer(&self) -> (u16, &str) {
        (self.status, &self.fault.code)
    }

    /// Whether the answer proves that the object does not exist. Only an explicit error code does.
    pub(super) fn proves_absence(&self) -> bool {
        matches!(self.answer(), (404, "NoSuchKey" | "NotFound"))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn etag(&self) -> Option<String> {
        self.header("etag").map(str::to_owned)
    }

    /// The time of the server when it answered. An answer from a cache has an old date, which is not used.
    pub(super) fn date(&self) -> Option<SystemTime> {
        self.time("date").filter(|_| self.header("age").is_none())
    }

    /// The time when the object was last written, by the clock of the server.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.time("last-modified")
    }

    fn time(&self, header: &str) -> Option<SystemTime> {
        httpdate::parse_http_date(self.header(header)?).ok()
    }

    /// The size that the server announced, in bytes.
    pub(super) fn size(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// There are no credentials to sign with.
    Credentials(CredentialsError),
    /// The request is malformed.
    Unsendable(String),
    /// The connection failed, or no answer came in time.
    NoAnswer(Cause),
    /// The answer broke off.
    Broken(String),
    /// The answer is longer than the limit of the request.
    TooLarge,
    /// The request was not sent, because the server goes on asking for fewer requests.
    SlowedDown,
    /// The request was not sent, because its fence does not permit it.
    Refused(Error),
}
