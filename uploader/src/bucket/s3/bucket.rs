//! Operations on the bucket itself: whether it exists, and its creation.

use http::Method;

use super::connection::Connection;
use super::error::{Access, refusal};
use super::reply::Reply;
use super::request::Request;
use super::xml::write;
use crate::base::error::Result;

/// The region whose buckets are created without naming a region.
const DEFAULT_REGION: &str = "us-east-1";

pub(super) async fn exists(connection: &Connection) -> Result<bool> {
    let what = || format!("cannot look up the bucket `{}`", connection.address);
    let reply = connection.send(Request::new(Method::HEAD, ""), what).await?;
    if reply.is_success() {
        return Ok(true);
    }
    match reply.status {
        404 => Ok(false),
        // The answer to a HEAD has no body to say why it was refused. The answer to a listing has.
        400 | 401 | 403 => {
            let list = Request::new(Method::GET, "").query("list-type", "2").query("max-keys", "1");
            match connection.send(list, what).await {
                Ok(listed) if listed.is_success() => Ok(true),
                Ok(listed) if !listed.fault.code.is_empty() => Err(refusal(what(), Access::Bucket, &listed)),
                _ => Err(refusal(what(), Access::Bucket, &reply)),
            }
        }
        _ => Err(refusal(what(), Access::Bucket, &reply)),
    }
}

pub(super) async fn create(connection: &Connection) -> Result<()> {
    let region = Some(connection.region.as_str()).filter(|region| *region != DEFAULT_REGION);
    let mut reply = request(connection, region).await?;
    if reply.fault.code == "InvalidLocationConstraint" && connection.address.endpoint.is_some() {
        // On such servers a region exists in signatures only.
        reply = request(connection, None).await?;
    }
    if reply.is_success() {
        return Ok(());
    }
    let refused = refusal(what(connection), Access::Bucket, &reply);
    match reply.fault.code.as_str() {
        "BucketAlreadyOwnedByYou" => Ok(()),
        // Some servers say so of larder's own bucket too. Another owner's bucket cannot be looked up.
        "BucketAlreadyExists" => match exists(connection).await {
            Ok(true) => Ok(()),
            _ => Err(refused.hint("another account has a bucket of this name: choose another name")),
        },
        _ => Err(refused),
    }
}

async fn request(connection: &Connection, region: Option<&str>) -> Result<Reply> {
    let mut request = Request::new(Method::PUT, "");
    if let Some(region) = region {
        request = request.header("content-type", "application/xml").document(write::location(region));
    }
    connection.send(request, || what(connection)).await
}

fn what(connection: &Connection) -> String {
    format!("cannot create the bucket `{}`", connection.address)
}
