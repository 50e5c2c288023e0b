//! The deletion of many objects.

use futures::{StreamExt, TryStreamExt, stream};
use http::Method;

use super::connection::Connection;
use super::error::{Access, refusal};
use super::objects;
use super::reply::Reply;
use super::request::{Request, md5};
use super::xml::{read, write};
use crate::base::error::{Area, Error, Result};

/// The most keys of a request.
const MOST: usize = 1000;
/// The number of requests at the same time.
const BATCHES: usize = 4;
/// The number of single deletions at the same time, where the server knows no others.
const SINGLES: usize = 32;

/// Deletes objects, a thousand with each request where the server can.
pub(super) async fn delete_many(connection: &Connection, keys: &[String]) -> Result<()> {
    let [batch] = keys else {
        let batches = keys.chunks(MOST).map(|batch| delete_batch(connection, batch));
        return stream::iter(batches.collect::<Vec<_>>()).buffer_unordered(BATCHES).try_collect().await;
    };
    objects::delete(connection, batch).await
}

async fn delete_batch(connection: &Connection, keys: &[String]) -> Result<()> {
    let what = || connection.what("delete objects such as", keys.first().map_or("", String::as_str));
    let full: Vec<_> = keys.iter().map(|key| connection.address.full_key(key)).collect();
    let text = write::deletion(full.iter().map(String::as_str));
    // Every server accepts this checksum, and many refuse the request without one.
    let checksum = md5(text.as_bytes());
    let request = Request::new(Method::POST, "")
        .query("delete", "")
        .header("content-type", "application/xml")
        .header("content-md5", checksum)
        .document(text);
    let reply = connection.send(request, what).await?;
    match read::undeleted(&reply.body) {
        Ok(left) if reply.is_success() => match left.into_iter().next() {
            None => Ok(()),
            Some((key, fault)) => {
                let key = key.strip_prefix(&connection.address.full_key("")).unwrap_or(&key).to_owned();
                let refused = Reply { fault, status: 403, ..reply };
                Err(refusal(connection.what("delete", &key), Access::Write, &refused))
            }
        },
        _ if is_unknown(&reply) => one_by_one(connection, keys).await,
        Err(reason) if reply.is_success() => Err(Error::transient(Area::Bucket, what()).because(reason)),
        _ => Err(refusal(what(), Access::Write, &reply)),
    }
}

/// Whether the server does not know the request.
fn is_unknown(reply: &Reply) -> bool {
    matches!(reply.status, 405 | 501) || matches!(&*reply.fault.code, "NotImplemented" | "MethodNotAllowed")
}

async fn one_by_one(connection: &Connection, keys: &[String]) -> Result<()> {
    let deletions: Vec<_> = keys.iter().map(|key| objects::delete(connection, key)).collect();
    stream::iter(deletions).buffer_unordered(SINGLES).try_collect().await
}
