//! Buckets on S3-compatible servers.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use percent_encoding::percent_decode_str;

use super::client::{self, Options};
use super::error::{Access, answer, explain, failure, not_understood, refusal};
use super::multipart::S3Multipart;
use super::policy;
use super::request::Request;
use super::sender::{Failure, Reply, Sender};
use super::throttle::Turn;
use super::xml::{self, Listing};
use crate::base::error::{Area, Error, Result, Retry};
use crate::bucket::address::S3Address;
use crate::bucket::interface::{
    AnonymousRead, Body, Bucket, Condition, ContentType, Cursor, Depth, ListPage, Multipart, Object,
    ObjectMeta, Position, Put, Unfinished,
};
use crate::bucket::object_name;

/// What S3 gives in one page.
const PAGE: &str = "1000";
/// More than any page has, in bytes.
const MAX_PAGE: u64 = 32 << 20;

/// A bucket on an S3-compatible server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct S3Bucket {
    pub(super) client: Client,
    pub(super) address: S3Address,
    pub(super) region: String,
    sender: Arc<Sender>,
}

impl S3Bucket {
    /// Prepares the way to a bucket. Reads configuration files, but sends nothing.
    ///
    /// Fails where the files that `options` names cannot be used. Missing credentials are reported by the first
    /// operation.
    pub async fn open(address: S3Address, options: &Options) -> Result<Self> {
        let (client, sender, region) = client::build(&address, options).await?;
        Ok(Self { client, address, region: region.to_string(), sender: Arc::new(sender) })
    }

    pub(super) fn what(&self, verb: &str, key: &str) -> String {
        format!("cannot {verb} `{key}` in `{}`", self.address)
    }

    /// A request about an object, whose key is relative to the prefix of the address.
    pub(super) fn request(&self, method: &'static str, key: &str) -> Request<'static> {
        Request::new(method, self.address.full_key(key))
    }

    /// Sends a request about an object; `verb` and `key` are for the error where there is no answer.
    pub(super) async fn send(&self, request: Request<'_>, verb: &str, key: &str) -> Result<Reply> {
        self.sender.send(&request).await.map_err(|error| failure(self.what(verb, key), &error))
    }

    /// Leave to send a request by the SDK's client.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, Failure> {
        self.sender.turn().await
    }

    async fn write(&self, key: &str, body: &Body, kind: ContentType, condition: &Condition) -> Result<Sent> {
        let request = self.request("PUT", key).header("content-type", kind.as_str()).body(body.clone());
        let request = match condition {
            Condition::None => request,
            Condition::IfAbsent => request.header("if-none-match", "*"),
            Condition::IfMatch(etag) => request.header("if-match", etag),
        };
        let reply = self.send(request, "write", key).await?;
        match (condition, reply.answer()) {
            (_, (200..=299, "")) => Ok(Sent::Done(Put::Written)),
            (Condition::IfAbsent | Condition::IfMatch(_), (412, _) | (_, "PreconditionFailed")) => {
                Ok(Sent::Done(Put::Refused))
            }
            // AWS says so when there is nothing to match.
            (Condition::IfMatch(_), (404, "NoSuchKey")) => Ok(Sent::Done(Put::Refused)),
            (Condition::IfAbsent | Condition::IfMatch(_), (501, _)) => Ok(Sent::NoConditions),
            _ => Err(refusal(self.what("write", key), Access::Write, &reply)),
        }
    }

    /// Why a HEAD was refused, which its answer has no room to say: `Ok` for an absent object.
    async fn reason(&self, key: &str) -> Option<Result<()>> {
        let request = self.request("GET", key).header("range", "bytes=0-0");
        match self.send(request, "look up", key).await {
            Ok(reply) if reply.is_success() => None,
            Ok(reply) if proves_absence(&reply) => Some(Ok(())),
            Ok(reply) => Some(Err(refusal(self.what("look up", key), Access::Read, &reply))),
            Err(error) => Some(Err(error)),
        }
    }

    /// Sorts a page out: keys relative to the prefix of the address, in order.
    ///
    /// Fails where the server says that more follows but not how to ask for it.
    fn page(&self, listing: Listing) -> Result<ListPage> {
        let lead = self.address.full_key("");
        let relative = |key: String| {
            let mut key = if listing.encoded { url_decode(&key) } else { key };
            let below = key.len() > lead.len() && key.starts_with(&lead);
            below.then(|| key.split_off(lead.len()))
        };
        let mut page = ListPage::default();
        page.objects.reserve(listing.objects.len());
        for object in listing.objects {
            if let Some(key) = relative(object.key) {
                page.objects.push(ObjectMeta { key, size: object.size, etag: object.etag });
            }
        }
        page.folders.extend(listing.folders.into_iter().filter_map(relative));
        page.objects.sort_by(|a, b| a.key.cmp(&b.key));
        page.folders.sort();
        if listing.truncated {
            page.next = match (listing.token, page.objects.last()) {
                (Some(token), _) => Some(Cursor(Position::Token(token))),
                (None, Some(last)) if page.folders.is_empty() => Some(Cursor::after(&last.key)),
                _ => {
                    return Err(Error::new(Area::Bucket, Retry::Unknown, self.what("list", "*"))
                        .because("the listing breaks off without saying how it goes on"));
                }
            };
        }
        Ok(page)
    }
}

enum Sent {
    Done(Put),
    /// The server refuses every request that has a condition.
    NoConditions,
}

#[async_trait]
impl Bucket for S3Bucket {
    fn address(&self) -> String {
        self.address.to_string()
    }

    async fn get(&self, key: &str) -> Result<Option<Object>> {
        object_name::check(key)?;
        let reply = self.send(self.request("GET", key), "read", key).await?;
        if reply.is_success() {
            let etag = reply.etag();
            Ok(Some(Object { body: reply.body, etag }))
        } else if proves_absence(&reply) {
            Ok(None)
        } else {
            Err(refusal(self.what("read", key), Access::Read, &reply))
        }
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        object_name::check(key)?;
        let reply = self.send(self.request("HEAD", key), "look up", key).await?;
        if reply.is_success() {
            let size = reply.size().ok_or_else(|| {
                Error::new(Area::Bucket, Retry::Unknown, self.what("look up", key))
                    .because("the answer has no size")
            })?;
            return Ok(Some(ObjectMeta { key: key.to_owned(), size, etag: reply.etag() }));
        }
        if reply.status == 404 {
            return Ok(None);
        }
        let refused = || Err(refusal(self.what("look up", key), Access::Read, &reply));
        match reply.status {
            400 | 401 | 403 => match self.reason(key).await {
                Some(reason) => reason.map(|()| None),
                None => refused(),
            },
            _ => refused(),
        }
    }

    async fn put(&self, key: &str, body: Body, kind: ContentType, condition: Condition) -> Result<Put> {
        object_name::check(key)?;
        if let Sent::Done(put) = self.write(key, &body, kind, &condition).await? {
            return Ok(put);
        }
        // The second best: look, then write.
        let holds = match (&condition, self.head(key).await?) {
            (Condition::IfMatch(etag), Some(found)) => found.etag.as_ref() == Some(etag),
            (Condition::IfMatch(_), None) => false,
            (_, found) => found.is_none(),
        };
        if !holds {
            return Ok(Put::Refused);
        }
        match self.write(key, &body, kind, &Condition::None).await? {
            Sent::Done(put) => Ok(put),
            Sent::NoConditions => Err(Error::permanent(Area::Bucket, self.what("write", key))),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        object_name::check(key)?;
        let reply = self.send(self.request("DELETE", key), "delete", key).await?;
        if reply.is_success() || proves_absence(&reply) {
            Ok(())
        } else {
            Err(refusal(self.what("delete", key), Access::Delete, &reply))
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage> {
        // Without `encoding-type=url`: what servers make of it differs, and the XML escapes every key that we write.
        let mut request = Request::new("GET", "").limit(MAX_PAGE);
        match after.map(|cursor| &cursor.0) {
            Some(Position::Key(key)) => request = request.query("start-after", self.address.full_key(key)),
            Some(Position::Token(token)) => request = request.query("continuation-token", token),
            None => {}
        }
        if depth == Depth::OneLevel {
            request = request.query("delimiter", "/");
        }
        let whole = self.address.full_key(prefix);
        let request = request.query("list-type", "2").query("max-keys", PAGE).query("prefix", whole);
        let shown = format!("{prefix}*");
        let reply = self.send(request, "list", &shown).await?;
        if !reply.is_success() {
            return Err(refusal(self.what("list", &shown), Access::List, &reply));
        }
        let listing = xml::listing(&reply.body)
            .map_err(|cause| not_understood(self.what("list", &shown), &reply, &cause))?;
        let mut page = self.page(listing)?;
        if let Some(Position::Key(after)) = after.map(|cursor| &cursor.0) {
            // Some servers take no notice of `start-after`.
            page.objects.retain(|object| object.key > *after);
        }
        Ok(page)
    }

    async fn start_multipart(&self, key: &str, kind: ContentType) -> Result<Box<dyn Multipart>> {
        object_name::check(key)?;
        Ok(Box::new(S3Multipart::start(self.clone(), key, kind).await?))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        // Without a prefix where the whole bucket is ours: MinIO finds nothing by one.
        let whole = self.address.full_key("");
        let request = Request::new("GET", "").query("uploads", "").limit(MAX_PAGE);
        let request = match whole.is_empty() {
            true => request,
            false => request.query("prefix", format!("{whole}{prefix}")),
        };
        let reply = self.send(request, "list the uploads of", prefix).await?;
        if !reply.is_success() {
            return Err(refusal(self.what("list the uploads of", prefix), Access::List, &reply));
        }
        let uploads = xml::uploads(&reply.body)
            .map_err(|cause| not_understood(self.what("list the uploads of", prefix), &reply, &cause))?;
        let relative = |(key, id): (String, String)| {
            let key = key.strip_prefix(&whole).filter(|key| key.starts_with(prefix))?.to_owned();
            Some(Unfinished { key, id })
        };
        Ok(uploads.into_iter().filter_map(relative).collect())
    }

    async fn discard(&self, upload: &Unfinished) -> Result<()> {
        let request = self.request("DELETE", &upload.key).query("uploadId", &upload.id);
        let reply = self.send(request, "give up the upload of", &upload.key).await?;
        if reply.is_success() || reply.status == 404 {
            return Ok(());
        }
        Err(refusal(self.what("give up the upload of", &upload.key), Access::Write, &reply))
    }

    async fn exists(&self) -> Result<bool> {
        match self.client.head_bucket().bucket(&self.address.bucket).send().await {
            Ok(_) => Ok(true),
            Err(error) if answer(&error).0 == Some(404) => Ok(false),
            // A HEAD has no body to say why it was refused; a listing has.
            Err(error) if matches!(answer(&error).0, Some(400 | 401 | 403)) => {
                let listed =
                    self.client.list_objects_v2().bucket(&self.address.bucket).max_keys(1).send().await;
                let what = format!("cannot look up the bucket `{}`", self.address);
                match listed {
                    Ok(_) => Ok(true),
                    Err(reason) if answer(&reason).1.is_some() => Err(explain(what, Access::Bucket, &reason)),
                    Err(_) => Err(explain(what, Access::Bucket, &error)),
                }
            }
            Err(error) => {
                Err(explain(format!("cannot look up the bucket `{}`", self.address), Access::Bucket, &error))
            }
        }
    }

    async fn create(&self) -> Result<()> {
        let place = (self.region != "us-east-1").then(|| {
            let constraint = BucketLocationConstraint::from(self.region.as_str());
            CreateBucketConfiguration::builder().location_constraint(constraint).build()
        });
        let request = || self.client.create_bucket().bucket(&self.address.bucket);
        let mut result = request().set_create_bucket_configuration(place).send().await;
        if let Err(error) = &result
            && answer(error).1 == Some("InvalidLocationConstraint")
            && self.address.endpoint.is_some()
        {
            // Servers whose regions exist in signatures only.
            result = request().send().await;
        }
        let Err(error) = result else { return Ok(()) };
        let error_of =
            || explain(format!("cannot make the bucket `{}`", self.address), Access::Bucket, &error);
        match answer(&error).1 {
            Some("BucketAlreadyOwnedByYou") => Ok(()),
            // Some servers say so of our own bucket too; another's is not ours to look up.
            Some("BucketAlreadyExists") => match self.exists().await {
                Ok(true) => Ok(()),
                _ => Err(error_of().hint("the name is taken by somebody else: choose another")),
            },
            _ => Err(error_of()),
        }
    }

    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        policy::allow(self).await
    }

    fn public_url(&self) -> String {
        self.address.public_url(&self.region)
    }
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Bucket").field(&self.address.to_string()).finish()
    }
}

/// Only what the server says in so many words.
fn proves_absence(reply: &Reply) -> bool {
    matches!(reply.answer(), (404, "NoSuchKey" | "NotFound"))
}

/// As forms encode: `+` is a space.
fn url_decode(key: &str) -> String {
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
