//! Copies of objects within a server.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use http::Method;

use super::connection::Connection;
use super::error::{Access, not_understood, refusal, without};
use super::multipart::{ASSEMBLY, MAX_PARTS, S3Multipart};
use super::reply::Reply;
use super::request::{Request, encoded};
use super::xml::read;
use crate::base::error::Result;
use crate::bucket::interface::{ContentType, Copied, Multipart, ObjectMeta, Origin, Place};

/// The number of parts that are copied at the same time.
const PARTS: usize = 8;

/// The place of an object of this bucket.
pub(super) fn origin(connection: &Connection, object: &ObjectMeta) -> Origin {
    let address = &connection.address;
    let place = Place::Server {
        endpoint: address.endpoint.clone(),
        region: connection.region.clone(),
        bucket: address.bucket.clone(),
        key: address.full_key(&object.key),
    };
    Origin { place, size: object.size, etag: object.etag.clone() }
}

/// Copies an object. The server reads the origin with the credentials of this connection.
pub(super) async fn copy(
    connection: &Arc<Connection>,
    from: &Origin,
    to: &str,
    kind: ContentType,
) -> Result<Copied> {
    let Some(source) = source(connection, from) else { return Ok(Copied::Impossible) };
    if from.size > connection.copied_at_once {
        return in_parts(connection, from, &source, to, kind).await;
    }
    let what = || connection.what("copy an object to", to);
    // Other metadata of the origin would come along, such as an encoding that the client of a cache does not undo.
    let request = connection
        .request(Method::PUT, to)
        .header("x-amz-metadata-directive", "REPLACE")
        .header("content-type", kind.as_str());
    let reply = connection.send(of(request, from, &source), what).await?;
    match outcome(&reply, what)? {
        Copied::Done => {}
        other => return Ok(other),
    }
    match read::entity_tag_of_copy(&reply.body) {
        Ok(Some(_)) => Ok(Copied::Done),
        // A server that does not know the header would take the request for the upload of an empty object.
        Ok(None) => Err(without(what(), "the answer does not say that the object was copied")),
        Err(cause) => Err(not_understood(what(), &reply, &cause)),
    }
}

/// The value of the header that names the origin; `None` if it is on another server.
fn source(connection: &Connection, from: &Origin) -> Option<String> {
    let here = (&connection.address.endpoint, &connection.region);
    match &from.place {
        Place::Server { endpoint, region, bucket, key } if here == (endpoint, region) => {
            Some(format!("{bucket}/{}", encoded(key)))
        }
        _ => None,
    }
}

/// Makes a copy of a request to write. The server may need minutes for the bytes.
fn of<'a>(request: Request<'a>, from: &'a Origin, source: &'a str) -> Request<'a> {
    let request = request.header("x-amz-copy-source", source).patience(ASSEMBLY);
    match &from.etag {
        Some(etag) => request.header("x-amz-copy-source-if-match", etag.as_str()),
        None => request,
    }
}

/// What the answer to a copy says. The answer is a success if the outcome is [`Copied::Done`].
fn outcome(reply: &Reply, what: impl Fn() -> String) -> Result<Copied> {
    match reply.answer() {
        _ if reply.is_success() => Ok(Copied::Done),
        (412, _) | (_, "PreconditionFailed") | (404, "NoSuchKey") => Ok(Copied::Gone),
        (405 | 501, _) | (_, "NotImplemented" | "MethodNotAllowed") => Ok(Copied::Impossible),
        _ => Err(refusal(what(), Access::Copy, reply)),
    }
}

/// Copies an object part by part. After anything but a success no part stays, as far as the server answers.
async fn in_parts(
    connection: &Arc<Connection>,
    from: &Origin,
    source: &str,
    to: &str,
    kind: ContentType,
) -> Result<Copied> {
    let upload = S3Multipart::start(connection.clone(), to, kind).await?;
    let size = connection.copied_at_once.max(from.size.div_ceil(u64::from(MAX_PARTS))).max(1);
    let parts: Vec<_> = (1..)
        .zip((0..from.size).step_by(usize::try_from(size).unwrap_or(usize::MAX)))
        .map(|(number, start)| part(connection, &upload, from, source, (number, start, size)))
        .collect();
    let all = stream::iter(parts)
        .buffer_unordered(PARTS)
        .try_fold(Copied::Done, async |all, one| Ok(if all == Copied::Done { one } else { all }));
    match all.await {
        Ok(Copied::Done) => Box::new(upload).complete().await.map(|()| Copied::Done),
        other => {
            // The outcome counts. Parts that stay are found as those of an unfinished upload.
            let _ = Box::new(upload).abort().await;
            other
        }
    }
}

/// Copies the part with this number, from this position on, of at most this size.
async fn part(
    connection: &Connection,
    upload: &S3Multipart,
    from: &Origin,
    source: &str,
    (number, start, size): (u32, u64, u64),
) -> Result<Copied> {
    let what = || upload.what_part(number);
    let end = (start + size).min(from.size);
    let request =
        upload.part_request(number).header("x-amz-copy-source-range", format!("bytes={start}-{}", end - 1));
    let reply = connection.send(of(request, from, source), what).await?;
    let outcome = outcome(&reply, what)?;
    if outcome == Copied::Done {
        let etag =
            read::entity_tag_of_copy(&reply.body).map_err(|cause| not_understood(what(), &reply, &cause))?;
        let etag = etag.ok_or_else(|| without(what(), "the answer has no entity tag"))?;
        upload.has(number, etag, end - start);
    }
    Ok(outcome)
}
