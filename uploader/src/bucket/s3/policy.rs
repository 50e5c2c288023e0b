//! Anonymous access by the policy of the bucket.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;

use super::connection::Connection;
use super::error::{Access, refusal};
use super::policy_document::{merge, not_understood};
use super::reply::Reply;
use super::request::Request;
use crate::base::error::{Area, Error, Result};
use crate::bucket::interface::AnonymousRead;

/// Adds the missing statements to the policy of the bucket.
pub(super) async fn allow_anonymous_read(connection: &Connection) -> Result<AnonymousRead> {
    let what = || format!("cannot let everybody read `{}`", connection.address);
    let request = || Request::new(Method::GET, "").query("policy", "");
    let reply = connection.send(request(), what).await?;
    let standing = match reply.answer() {
        (200..=299, "") => std::str::from_utf8(&reply.body).map_err(|_| not_understood()),
        (_, "NoSuchBucketPolicy") => Ok(""),
        _ => return unsupported(&reply).ok_or_else(|| refusal(what(), Access::Policy, &reply)),
    };
    let (bucket, objects) = resources(connection);
    let policy = standing.and_then(|standing| merge(standing, &bucket, &objects));
    let policy = policy.map_err(|cause| Error::permanent(Area::Bucket, what()).because(cause))?;
    let Some(policy) = policy else {
        return Ok(AnonymousRead::Granted);
    };
    let reply = connection.send(replacement(policy), what).await?;
    if reply.is_success() {
        return Ok(AnonymousRead::Granted);
    }
    unsupported(&reply).ok_or_else(|| refusal(what(), Access::Policy, &reply))
}

/// The request that replaces the policy. S3 requires a checksum of a policy.
fn replacement(policy: String) -> Request<'static> {
    let request = Request::new(Method::PUT, "").query("policy", "").document(policy);
    let hash = request.body.as_ref().and_then(|body| body.sha256).unwrap_or_default();
    request
        .header("x-amz-sdk-checksum-algorithm", "SHA256")
        .header("x-amz-checksum-sha256", BASE64_STANDARD.encode(hash))
}

/// The names of the bucket and of the objects below the prefix, as a policy names them.
fn resources(connection: &Connection) -> (String, String) {
    let partition = match connection.region.as_str() {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    let bucket = format!("arn:{partition}:s3:::{}", connection.address.bucket);
    let objects = format!("{bucket}/{}*", connection.address.full_key(""));
    (bucket, objects)
}

/// `Some` if the answer says that the server has no policies.
fn unsupported(reply: &Reply) -> Option<AnonymousRead> {
    let knows_none = match reply.answer() {
        (_, "NotImplemented" | "MethodNotAllowed" | "NotSupported" | "UnsupportedOperation") => true,
        (404, code) => code != "NoSuchBucket",
        (405 | 501, _) => true,
        _ => false,
    };
    let shown = match reply.answer() {
        (status, "") => status.to_string(),
        (_, code) => format!("`{code}`"),
    };
    knows_none.then(|| {
        AnonymousRead::Unsupported(format!("the server has no bucket policies (it answered {shown})"))
    })
}
