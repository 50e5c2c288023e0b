//! Multipart uploads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use larder_hook::fault::point;

use super::connection::Connection;
use super::error::{Access, not_understood, refusal, without};
use super::listing::MAX_PAGE;
use super::objects;
use super::request::Request;
use super::xml::{read, write};
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::bucket::interface::{Body, ContentType, Multipart, Unfinished};

/// The most parts that S3 takes.
pub(super) const MAX_PARTS: u32 = 10_000;
/// The time limit for assembling an object. Some servers need minutes to assemble thousands of parts.
pub(super) const ASSEMBLY: Duration = Duration::from_secs(600);

/// A multipart upload in progress.
pub(super) struct S3Multipart {
    connection: Arc<Connection>,
    key: String,
    id: String,
    /// The parts that the server has, by number.
    sent: Mutex<BTreeMap<u32, Sent>>,
}

#[derive(Clone)]
struct Sent {
    etag: String,
    size: u64,
}

impl S3Multipart {
    pub(super) async fn start(connection: Arc<Connection>, key: &str, kind: ContentType) -> Result<Self> {
        let what = || connection.what("start the upload of", key);
        let request =
            connection.request(Method::POST, key).query("uploads", "").header("content-type", kind.as_str());
        point("multipart: before its start");
        let reply = connection.send(request, what).await;
        point("multipart: started");
        let reply = reply?;
        if !reply.is_success() {
            return Err(refusal(what(), Access::Write, &reply));
        }
        let id = read::upload_id(&reply.body)
            .map_err(|cause| not_understood(what(), &reply, &cause))?
            .ok_or_else(|| without(what(), "the answer has no upload id"))?;
        let key = key.to_owned();
        Ok(Self { connection, key, id, sent: Mutex::default() })
    }

    fn what(&self, verb: &str) -> String {
        self.connection.what(verb, &self.key)
    }

    /// The operation on a part, for an error.
    pub(super) fn what_part(&self, number: u32) -> String {
        self.what(&format!("send part {number} of"))
    }

    /// The request that gives a part to the server.
    pub(super) fn part_request(&self, number: u32) -> Request<'_> {
        self.connection
            .request(Method::PUT, &self.key)
            .query("partNumber", number.to_string())
            .query("uploadId", &self.id)
    }

    /// Takes down that the server has a part.
    pub(super) fn has(&self, number: u32, etag: String, size: u64) {
        lock(&self.sent).insert(number, Sent { etag, size });
    }

    /// Sends the request that assembles the object. The status of its answer is sent before the work is done: only the
    /// body tells whether the object exists.
    async fn assemble(&self, sent: &BTreeMap<u32, Sent>) -> Result<Assembly> {
        let what = || self.what("finish the upload of");
        let parts = write::parts(sent.iter().map(|(number, part)| (*number, part.etag.as_str())));
        let request = self
            .connection
            .request(Method::POST, &self.key)
            .query("uploadId", &self.id)
            .header("content-type", "application/xml")
            .document(parts)
            // All parts are sent: giving up now would send them again.
            .in_any_case()
            .patience(ASSEMBLY);
        point("multipart: before its end");
        let reply = self.connection.send(request, what).await;
        point("multipart: ended");
        let reply = reply?;
        if reply.fault.code == "NoSuchUpload" {
            return Ok(Assembly::Gone(refusal(what(), Access::Write, &reply)));
        }
        if !reply.is_success() {
            return Err(refusal(what(), Access::Write, &reply));
        }
        match read::names_an_object(&reply.body) {
            Ok(true) => Ok(Assembly::Done),
            Ok(false) => Err(without(what(), "the answer does not say that the object exists")),
            Err(cause) => Err(not_understood(what(), &reply, &cause)),
        }
    }

    /// Whether an object of this size exists.
    async fn exists(&self, size: u64) -> bool {
        let found = objects::head(&self.connection, &self.key).await;
        matches!(found, Ok(Some(found)) if found.size == size)
    }
}

enum Assembly {
    Done,
    /// The server does not know the upload: an attempt whose answer was lost may have finished it.
    Gone(Error),
}

#[async_trait]
impl Multipart for S3Multipart {
    async fn part(&self, number: u32, body: Body) -> Result<()> {
        let what = || self.what_part(number);
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(Error::permanent(Area::Bucket, what()).because("part numbers go from 1 to 10000"));
        }
        let size = u64::try_from(body.bytes.len()).unwrap_or(u64::MAX);
        let reply = self.connection.send(self.part_request(number).body(body), what).await?;
        if !reply.is_success() {
            return Err(refusal(what(), Access::Write, &reply));
        }
        let etag = reply.etag().ok_or_else(|| without(what(), "the answer has no entity tag"))?;
        self.has(number, etag, size);
        Ok(())
    }

    async fn complete(self: Box<Self>) -> Result<()> {
        let sent = lock(&self.sent).clone();
        if sent.is_empty() || !sent.keys().copied().eq(1..=u32::try_from(sent.len()).unwrap_or(u32::MAX)) {
            return Err(Error::permanent(Area::Bucket, self.what("finish the upload of"))
                .because("parts are missing"));
        }
        match self.assemble(&sent).await? {
            Assembly::Done => Ok(()),
            Assembly::Gone(_) if self.exists(sent.values().map(|part| part.size).sum()).await => Ok(()),
            Assembly::Gone(error) => Err(error),
        }
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        abort(&self.connection, &self.key, &self.id).await
    }
}

/// Removes the parts of an upload. Succeeds if the upload does not exist any more.
pub(super) async fn abort(connection: &Connection, key: &str, id: &str) -> Result<()> {
    let what = || connection.what("abort the upload of", key);
    let reply = connection.send(connection.request(Method::DELETE, key).query("uploadId", id), what).await?;
    let gone =
        reply.fault.code == "NoSuchUpload" || (reply.status == 404 && reply.fault.code != "NoSuchBucket");
    if reply.is_success() || gone {
        return Ok(());
    }
    Err(refusal(what(), Access::Write, &reply))
}

/// Uploads below `prefix` that were begun and not ended, as far as one page lists them.
pub(super) async fn unfinished(connection: &Connection, prefix: &str) -> Result<Vec<Unfinished>> {
    let what = || connection.what("list the uploads of", prefix);
    let lead = connection.address.full_key("");
    let request = Request::new(Method::GET, "").query("uploads", "").limit(MAX_PAGE);
    // MinIO takes a prefix for a full key and finds nothing. If the whole bucket is larder's, no prefix is needed.
    let request = match lead.is_empty() {
        true => request,
        false => request.query("prefix", format!("{lead}{prefix}")),
    };
    let reply = connection.send(request, what).await?;
    if !reply.is_success() {
        return Err(refusal(what(), Access::List, &reply));
    }
    let uploads = read::uploads(&reply.body).map_err(|cause| not_understood(what(), &reply, &cause))?;
    let relative = |(key, id): (String, String)| {
        let key = key.strip_prefix(&lead).filter(|key| key.starts_with(prefix))?.to_owned();
        Some(Unfinished { key, id })
    };
    Ok(uploads.into_iter().filter_map(relative).collect())
}
