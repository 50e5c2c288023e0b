//! Operations on small objects: read, look up, write, delete.

use bytes::Bytes;
use http::Method;

use super::connection::Connection;
use super::error::{Access, refusal, without};
use crate::base::error::{Area, Error, Result};
use crate::bucket::interface::{Body, Condition, ContentType, Object, ObjectMeta, Put};

pub(super) async fn get(connection: &Connection, key: &str) -> Result<Option<Object>> {
    let what = || connection.what("read", key);
    let reply = connection.send(connection.request(Method::GET, key), what).await?;
    if reply.is_success() {
        let etag = reply.etag();
        Ok(Some(Object { body: reply.body, etag }))
    } else if reply.proves_absence() {
        Ok(None)
    } else {
        Err(refusal(what(), Access::Read, &reply))
    }
}

pub(super) async fn get_part(
    connection: &Connection,
    key: &str,
    from: u64,
    length: u64,
) -> Result<Option<Bytes>> {
    let what = || connection.what("read", key);
    let last = from.saturating_add(length).saturating_sub(1);
    let request = connection.request(Method::GET, key).header("range", format!("bytes={from}-{last}"));
    let reply = connection.send(request.limit(length), what).await?;
    match reply.answer() {
        (206, "") => Ok(Some(reply.body)),
        // The server sends the whole object, which is no longer than the limit.
        (200..=299, "") if from == 0 => Ok(Some(reply.body)),
        (416, _) => Ok(Some(Bytes::new())),
        _ if reply.is_success() => Err(without(what(), "the server ignores the range of the request")),
        _ if reply.proves_absence() => Ok(None),
        _ => Err(refusal(what(), Access::Read, &reply)),
    }
}

pub(super) async fn head(connection: &Connection, key: &str) -> Result<Option<ObjectMeta>> {
    let what = || connection.what("look up", key);
    let reply = connection.send(connection.request(Method::HEAD, key), what).await?;
    if reply.is_success() {
        let size = reply.size().ok_or_else(|| without(what(), "the answer has no size"))?;
        let age = ObjectMeta::age(reply.date(), reply.modified());
        return Ok(Some(ObjectMeta { key: key.to_owned(), size, etag: reply.etag(), age }));
    }
    match reply.status {
        404 => Ok(None),
        400 | 401 | 403 => match reason(connection, key).await {
            Some(reason) => reason.map(|()| None),
            None => Err(refusal(what(), Access::Read, &reply)),
        },
        _ => Err(refusal(what(), Access::Read, &reply)),
    }
}

/// Why a HEAD was refused. Its answer has no body to say so, but the answer to a GET has. `Some(Ok(()))` means that the
/// object does not exist, `None` that the GET gives no reason.
async fn reason(connection: &Connection, key: &str) -> Option<Result<()>> {
    let what = || connection.what("look up", key);
    let request = connection.request(Method::GET, key).header("range", "bytes=0-0");
    match connection.send(request, what).await {
        Ok(reply) if reply.is_success() => None,
        Ok(reply) if reply.proves_absence() => Some(Ok(())),
        Ok(reply) => Some(Err(refusal(what(), Access::Read, &reply))),
        Err(error) => Some(Err(error)),
    }
}

pub(super) async fn put(
    connection: &Connection,
    key: &str,
    body: Body,
    kind: ContentType,
    condition: Condition,
) -> Result<Put> {
    if let Written::Done(put) = write(connection, key, &body, kind, &condition).await? {
        return Ok(put);
    }
    // The server knows no conditions: look the object up, then write it.
    let holds = match (&condition, head(connection, key).await?) {
        (Condition::IfMatch(etag), Some(found)) => found.etag.as_ref() == Some(etag),
        (Condition::IfMatch(_), None) => false,
        (_, found) => found.is_none(),
    };
    if !holds {
        return Ok(Put::Refused);
    }
    match write(connection, key, &body, kind, &Condition::None).await? {
        Written::Done(put) => Ok(put),
        Written::NoConditions => Err(Error::permanent(Area::Bucket, connection.what("write", key))),
    }
}

enum Written {
    Done(Put),
    /// The server refuses every request that has a condition.
    NoConditions,
}

async fn write(
    connection: &Connection,
    key: &str,
    body: &Body,
    kind: ContentType,
    condition: &Condition,
) -> Result<Written> {
    let what = || connection.what("write", key);
    let request =
        connection.request(Method::PUT, key).header("content-type", kind.as_str()).body(body.clone());
    let request = match condition {
        Condition::None => request,
        Condition::IfAbsent => request.header("if-none-match", "*"),
        Condition::IfMatch(etag) => request.header("if-match", etag),
    };
    let reply = connection.send(request, what).await?;
    match (condition, reply.answer()) {
        (_, (200..=299, "")) => Ok(Written::Done(Put::Written)),
        (Condition::IfAbsent | Condition::IfMatch(_), (412, _) | (_, "PreconditionFailed")) => {
            Ok(Written::Done(Put::Refused))
        }
        // The answer of AWS if there is no object to match.
        (Condition::IfMatch(_), (404, "NoSuchKey")) => Ok(Written::Done(Put::Refused)),
        (Condition::IfAbsent | Condition::IfMatch(_), (501, _)) => Ok(Written::NoConditions),
        _ => Err(refusal(what(), Access::Write, &reply)),
    }
}

pub(super) async fn delete(connection: &Connection, key: &str) -> Result<()> {
    let what = || connection.what("delete", key);
    let reply = connection.send(connection.request(Method::DELETE, key), what).await?;
    if reply.is_success() || reply.proves_absence() {
        Ok(())
    } else {
        Err(refusal(what(), Access::Delete, &reply))
    }
}
