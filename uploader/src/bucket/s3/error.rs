//! The errors of refusals and of requests without an answer.

use aws_credential_types::provider::error::CredentialsError;

use super::reply::{Failure, Reply};
use super::retry::may_pass;
use crate::base::error::{Area, Error, Retry, chain};
use crate::bucket::interface::MAX_SMALL;
use crate::http::diagnosis;

/// The hint about missing credentials.
const WAYS: &str = "larder reads its credentials file, then `AWS_ACCESS_KEY_ID` and \
    `AWS_SECRET_ACCESS_KEY`, `AWS_WEB_IDENTITY_TOKEN_FILE`, and the profile in `~/.aws/credentials` or \
    `AWS_SHARED_CREDENTIALS_FILE`; a machine's metadata service is asked only with `imds=true` in the address";

const CHECK_ENDPOINT: &str = "check that the endpoint is an S3 server, and check the scheme and the port";

/// The permission that a request needs, for the hint of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// `s3:GetObject`
    Read,
    /// `s3:PutObject` and `s3:AbortMultipartUpload`
    Write,
    /// `s3:DeleteObject`
    Delete,
    /// `s3:DeleteObjectVersion`
    DeleteVersion,
    /// `s3:GetObject` on another object, and `s3:PutObject`
    Copy,
    /// `s3:ListBucket`
    List,
    /// `s3:ListBucketVersions`
    ListVersions,
    /// The bucket itself.
    Bucket,
    /// `s3:GetBucketPolicy` and `s3:PutBucketPolicy`
    Policy,
}

impl Access {
    fn hint(self) -> &'static str {
        match self {
            Self::Read => {
                "a server also answers 403 for a missing object if the credentials lack `s3:ListBucket`: grant \
                 `s3:ListBucket` on the bucket and `s3:GetObject` on its objects"
            }
            Self::Write => {
                "grant `s3:PutObject` and `s3:AbortMultipartUpload` on the objects below the prefix of the address"
            }
            Self::Delete => "grant `s3:DeleteObject` on the objects below the prefix of the address",
            Self::DeleteVersion => {
                "grant `s3:DeleteObjectVersion` on the objects below the prefix of the address; a retention or a legal \
                 hold of the object may forbid it too"
            }
            Self::Copy => {
                "grant `s3:GetObject` on the objects that are copied, and `s3:PutObject` on the objects below the \
                 prefix of the address"
            }
            Self::ListVersions => "grant `s3:ListBucketVersions` on the bucket",
            Self::List => "grant `s3:ListBucket` on the bucket",
            Self::Bucket => "grant `s3:ListBucket` on the bucket, and `s3:CreateBucket` to create it",
            Self::Policy => {
                "grant `s3:GetBucketPolicy` and `s3:PutBucketPolicy`; on AWS, the bucket's Block Public Access may \
                 forbid it too"
            }
        }
    }
}

/// The error of a request that was refused.
pub(super) fn refusal(what: impl Into<String>, access: Access, reply: &Reply) -> Error {
    let region = reply.header("x-amz-bucket-region");
    refused(what.into(), access, reply.status, &reply.fault.code, &reply.fault.message, region)
}

/// The error of a request without an answer.
pub(super) fn failure(what: impl Into<String>, failure: Failure) -> Error {
    let what = what.into();
    match failure {
        Failure::Refused(error) => error,
        Failure::Credentials(error) => no_credentials(what, &error),
        Failure::Unsendable(cause) => Error::permanent(Area::Bucket, what).because(cause.as_str()),
        Failure::NoAnswer(error) => diagnosis::explain(what, error.as_ref()),
        Failure::Broken(cause) => Error::transient(Area::Bucket, what).because(cause.as_str()),
        Failure::SlowedDown => {
            Error::transient(Area::Bucket, what).because("the server goes on asking for fewer requests")
        }
        Failure::TooLarge => Error::permanent(Area::Bucket, what)
            .because(format!("it is larger than {MAX_SMALL} bytes, which no object of its kind is")),
    }
}

/// The error of a success whose answer lacks something. Nobody knows whether the request took effect.
pub(super) fn without(what: impl Into<String>, cause: &str) -> Error {
    Error::new(Area::Bucket, Retry::Unknown, what).because(cause)
}

/// The error of an answer in an unexpected format.
pub(super) fn not_understood(what: impl Into<String>, reply: &Reply, cause: &str) -> Error {
    Error::new(Area::Bucket, Retry::Unknown, what)
        .because(format!("the answer (status {}) cannot be understood: {cause}", reply.status))
        .hint(CHECK_ENDPOINT)
}

fn no_credentials(what: String, error: &CredentialsError) -> Error {
    let retry = match error {
        CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_) => Retry::Transient,
        _ => Retry::Permanent,
    };
    let cause = match error {
        CredentialsError::CredentialsNotLoaded(_) => "there are no credentials".to_owned(),
        _ => format!("the credentials cannot be loaded: {}", chain(error)),
    };
    Error::new(Area::Credentials, retry, what).because(cause).hint(WAYS)
}

fn refused(
    what: String,
    access: Access,
    status: u16,
    code: &str,
    message: &str,
    region: Option<&str>,
) -> Error {
    let cause = cause(status, code, message);
    let error = |area, retry| Error::new(area, retry, what.clone()).because(cause.as_str());
    let permanent = || error(Area::Bucket, Retry::Permanent);
    let code = precise(code, message);
    if let Some((retry, hint)) = of_credentials(code) {
        return error(Area::Credentials, retry).hint(hint);
    }
    match (code, status) {
        ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect", _)
        | (_, 301 | 307 | 308) => wrong_region(permanent(), region.or_else(|| expected_region(message))),
        (_, 400) if region.is_some() => wrong_region(permanent(), region),
        ("NoSuchBucket", _) => permanent()
            .hint("check the name in the address, or create the bucket with `larder init --create`"),
        ("NoSuchUpload", _) => error(Area::Bucket, Retry::Unknown),
        ("QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded", _) | (_, 507) => {
            error(Area::Bucket, Retry::Transient).hint("the server has no space left, or a quota is used up")
        }
        ("NotImplemented", _) | (_, 501) => permanent().hint("this server does not know the request"),
        // The whole operation may succeed later, although the same request does not at once.
        (
            "BadDigest"
            | "XAmzContentSHA256Mismatch"
            | "IncompleteBody"
            | "OperationAborted"
            | "ConditionalRequestConflict",
            _,
        )
        | (_, 409 | 425 | 500..) => error(Area::Bucket, Retry::Transient),
        (code, status) if may_pass(status, code) => error(Area::Bucket, Retry::Transient),
        ("AccessDenied" | "Forbidden", _) | (_, 401 | 403) => permanent().hint(access.hint()),
        (_, 404) => error(Area::Bucket, Retry::Unknown)
            .hint("an S3 server does not answer like this for a missing object: check the endpoint"),
        (_, 200..=299) => error(Area::Bucket, Retry::Unknown),
        _ => permanent(),
    }
}

/// A precise code where a server has one code for everything that it forbids, as Garage does, or for a signature in the query
/// that has expired.
pub(super) fn precise<'a>(code: &'a str, message: &str) -> &'a str {
    match code {
        "AccessDenied" if message.contains("No such key") => "InvalidAccessKeyId",
        "AccessDenied" if message.contains("Invalid signature") => "SignatureDoesNotMatch",
        "AccessDenied" if message.contains("has expired") => "RequestExpired",
        "InvalidRequest" if message.contains("Date is too old") => "RequestExpired",
        code => code,
    }
}

/// The class and the hint of a code that refuses the credentials or their signature.
fn of_credentials(code: &str) -> Option<(Retry, &'static str)> {
    match code {
        "RequestTimeTooSkewed" | "RequestExpired" => Some((
            Retry::Transient,
            "the clocks of this machine and of the server differ too much: check both, and NTP",
        )),
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
            Some((Retry::Transient, "the session of the credentials has ended: renew the credentials"))
        }
        "InvalidAccessKeyId" => Some((
            Retry::Permanent,
            "this server does not know the access key: check the credentials and the endpoint",
        )),
        "SignatureDoesNotMatch" | "InvalidToken" | "InvalidSecurity" => Some((
            Retry::Permanent,
            "the secret key does not belong to the access key: check that it was copied completely",
        )),
        _ => None,
    }
}

fn wrong_region(error: Error, region: Option<&str>) -> Error {
    match region {
        Some(region) => {
            error.hint(format!("the bucket is in another region: write `region={region}` in the address"))
        }
        None => error.hint("the bucket is in another region: write its region as `region=…` in the address"),
    }
}

/// The region in `…; expecting 'eu-west-1'`, or in a complete scope `…/eu-west-1/s3/aws4_request`.
fn expected_region(message: &str) -> Option<&str> {
    let (_, rest) = message.rsplit_once("expecting").or_else(|| message.rsplit_once("expected"))?;
    let quoted = rest.split(['\'', '"', '`']).nth(1)?;
    let region = quoted.split('/').rev().nth(2).unwrap_or(quoted);
    let fits = !region.is_empty()
        && region.len() <= 40
        && region.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    fits.then_some(region)
}

fn cause(status: u16, code: &str, message: &str) -> String {
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    let message = message.trim().trim_end_matches('.');
    match (code, message) {
        ("", "") => format!("the server answered {status}"),
        (code, "") => format!("the server answered {status} `{code}`"),
        ("", message) => format!("the server answered {status}: {message}"),
        (code, message) => format!("the server answered {status} `{code}`: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, code: &str, message: &str, region: Option<&str>) -> (Area, Retry, String) {
        let error = refused("cannot read".into(), Access::Read, status, code, message, region);
        (error.area(), error.retry(), error.hint_text().unwrap_or_default().to_owned())
    }

    #[test]
    fn answers_are_classified() {
        for (status, code, area, retry) in [
            (503, "SlowDown", Area::Bucket, Retry::Transient),
            (500, "", Area::Bucket, Retry::Transient),
            (409, "ConditionalRequestConflict", Area::Bucket, Retry::Transient),
            (403, "InvalidAccessKeyId", Area::Credentials, Retry::Permanent),
            (403, "SignatureDoesNotMatch", Area::Credentials, Retry::Permanent),
            (400, "ExpiredToken", Area::Credentials, Retry::Transient),
            (403, "RequestTimeTooSkewed", Area::Credentials, Retry::Transient),
            (403, "AccessDenied", Area::Bucket, Retry::Permanent),
            (404, "NoSuchBucket", Area::Bucket, Retry::Permanent),
            (404, "", Area::Bucket, Retry::Unknown),
            (200, "", Area::Bucket, Retry::Unknown),
            (200, "InternalError", Area::Bucket, Retry::Transient),
            (400, "InvalidArgument", Area::Bucket, Retry::Permanent),
            (501, "NotImplemented", Area::Bucket, Retry::Permanent),
        ] {
            let (found_area, found_retry, _) = of(status, code, "", None);
            assert_eq!((found_area, found_retry), (area, retry), "{status} {code}");
        }
    }

    #[test]
    fn the_hint_names_the_region() {
        for (status, code, message, header) in [
            (301, "PermanentRedirect", "", Some("eu-west-1")),
            (400, "", "", Some("eu-west-1")),
            (
                400,
                "AuthorizationHeaderMalformed",
                "the region 'us-east-1' is wrong; expecting 'eu-west-1'",
                None,
            ),
            (
                400,
                "AuthorizationHeaderMalformed",
                "unexpected scope: `2026/us-east-1/s3/aws4_request`, expected: `2026/eu-west-1/s3/aws4_request`",
                None,
            ),
        ] {
            let (_, retry, hint) = of(status, code, message, header);
            assert_eq!(retry, Retry::Permanent);
            assert!(hint.contains("`region=eu-west-1`"), "{hint}");
        }
        assert!(of(301, "", "", None).2.contains("region=…"));
    }

    #[test]
    fn a_403_explains_list_bucket() {
        assert!(of(403, "", "", None).2.contains("s3:ListBucket"));
    }
}
