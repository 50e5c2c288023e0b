//! Buckets on S3-compatible servers.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration, EncodingType};
use bytes::{Bytes, BytesMut};
use percent_encoding::percent_decode_str;

use super::address::S3Address;
use super::contract::{
    AnonymousRead, Bucket, Condition, ContentType, Cursor, Depth, ListPage, MAX_SMALL, Multipart, Object,
    ObjectMeta, Position, Put,
};
use super::s3_client::{self, Options};
use super::s3_error::{Access, answer, explain};
use super::s3_multipart::S3Multipart;
use super::{key, s3_policy};
use crate::error::{Area, Error, Result, Retry, chain};

/// What S3 gives in one page.
const PAGE: i32 = 1000;
/// How long the body of a small object may take.
const BODY: Duration = Duration::from_secs(60);

/// A bucket on an S3-compatible server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct S3Bucket {
    pub(super) client: Client,
    pub(super) address: S3Address,
    pub(super) region: String,
    attempts: u32,
}

impl S3Bucket {
    /// Prepares the way to a bucket. Reads configuration files, but sends nothing.
    ///
    /// Fails where the files that `options` names cannot be used. Missing credentials are reported by the first
    /// operation.
    pub async fn open(address: S3Address, options: &Options) -> Result<Self> {
        let (client, region) = s3_client::build(&address, options).await?;
        Ok(Self { client, address, region: region.to_string(), attempts: options.max_attempts.max(1) })
    }

    pub(super) fn what(&self, verb: &str, key: &str) -> String {
        format!("cannot {verb} `{key}` in `{}`", self.address)
    }

    async fn send(&self, key: &str, body: &Bytes, kind: ContentType, condition: &Condition) -> Result<Sent> {
        let mut request = self
            .client
            .put_object()
            .bucket(&self.address.bucket)
            .key(self.address.full_key(key))
            .content_type(kind.as_str())
            .body(ByteStream::from(body.clone()));
        match condition {
            Condition::None => {}
            Condition::IfAbsent => request = request.if_none_match("*"),
            Condition::IfMatch(etag) => request = request.if_match(etag),
        }
        let Err(error) = request.customize().config_override(s3_client::for_body(body.len())).send().await
        else {
            return Ok(Sent::Done(Put::Written));
        };
        match (condition, answer(&error)) {
            (
                Condition::IfAbsent | Condition::IfMatch(_),
                (Some(412), _) | (_, Some("PreconditionFailed")),
            ) => Ok(Sent::Done(Put::Refused)),
            // AWS says so when there is nothing to match.
            (Condition::IfMatch(_), (Some(404), Some("NoSuchKey"))) => Ok(Sent::Done(Put::Refused)),
            (Condition::IfAbsent | Condition::IfMatch(_), (Some(501), _)) => Ok(Sent::NoConditions),
            _ => Err(explain(self.what("write", key), Access::Write, &error)),
        }
    }

    /// Why a HEAD was refused, which its answer has no room to say: `Ok` for an absent object.
    async fn reason(&self, key: &str) -> Option<Result<()>> {
        let request = self.client.get_object().bucket(&self.address.bucket).key(self.address.full_key(key));
        match request.range("bytes=0-0").send().await {
            Ok(_) => None,
            Err(error) if proves_absence(&error) => Some(Ok(())),
            Err(error) => Some(Err(explain(self.what("look up", key), Access::Read, &error))),
        }
    }

    /// Sorts a page out: keys relative to the prefix of the address, in order.
    ///
    /// Fails where the server says that more follows but not how to ask for it.
    fn page(&self, output: &ListObjectsV2Output) -> Result<ListPage> {
        let encoded = output.encoding_type() == Some(&EncodingType::Url);
        let lead = self.address.full_key("");
        let relative = |key: &str| {
            let key = if encoded { url_decode(key) } else { key.to_owned() };
            key.strip_prefix(&lead).filter(|key| !key.is_empty()).map(str::to_owned)
        };
        let mut page = ListPage::default();
        for object in output.contents() {
            if let Some(key) = object.key().and_then(relative) {
                let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
                page.objects.push(ObjectMeta { key, size, etag: object.e_tag().map(str::to_owned) });
            }
        }
        for folder in output.common_prefixes() {
            page.folders.extend(folder.prefix().and_then(relative));
        }
        page.objects.sort_by(|a, b| a.key.cmp(&b.key));
        page.folders.sort();
        if output.is_truncated() == Some(true) {
            page.next = match (output.next_continuation_token(), page.objects.last()) {
                (Some(token), _) => Some(Cursor(Position::Token(token.to_owned()))),
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
        key::check(key)?;
        let full = self.address.full_key(key);
        let mut attempt = 1;
        loop {
            let request = self.client.get_object().bucket(&self.address.bucket).key(&full);
            let output = match request.send().await {
                Ok(output) => output,
                Err(error) if proves_absence(&error) => return Ok(None),
                Err(error) => return Err(explain(self.what("read", key), Access::Read, &error)),
            };
            let etag = output.e_tag().map(str::to_owned);
            let size = output.content_length();
            match read_small(output.body, size).await {
                Ok(body) => return Ok(Some(Object { body, etag })),
                Err(Unread::TooLarge) => {
                    return Err(Error::permanent(Area::Bucket, self.what("read", key)).because(format!(
                        "it is larger than {MAX_SMALL} bytes, which no object of its kind is"
                    )));
                }
                // The SDK sends requests again, but a body that breaks off is ours.
                Err(Unread::Broken(_)) if attempt < self.attempts => {
                    tokio::time::sleep(Duration::from_millis(250) * attempt).await;
                    attempt += 1;
                }
                Err(Unread::Broken(cause)) => {
                    return Err(Error::transient(Area::Bucket, self.what("read", key)).because(cause));
                }
            }
        }
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        key::check(key)?;
        let request = self.client.head_object().bucket(&self.address.bucket).key(self.address.full_key(key));
        match request.send().await {
            Ok(output) => {
                let size =
                    output.content_length().and_then(|size| u64::try_from(size).ok()).ok_or_else(|| {
                        Error::new(Area::Bucket, Retry::Unknown, self.what("look up", key))
                            .because("the answer has no size")
                    })?;
                Ok(Some(ObjectMeta { key: key.to_owned(), size, etag: output.e_tag }))
            }
            Err(error) if answer(&error).0 == Some(404) && answer(&error).1 != Some("NoSuchBucket") => {
                Ok(None)
            }
            Err(error) if matches!(answer(&error).0, Some(400 | 401 | 403)) => match self.reason(key).await {
                Some(reason) => reason.map(|()| None),
                None => Err(explain(self.what("look up", key), Access::Read, &error)),
            },
            Err(error) => Err(explain(self.what("look up", key), Access::Read, &error)),
        }
    }

    async fn put(&self, key: &str, body: Bytes, kind: ContentType, condition: Condition) -> Result<Put> {
        key::check(key)?;
        if let Sent::Done(put) = self.send(key, &body, kind, &condition).await? {
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
        match self.send(key, &body, kind, &Condition::None).await? {
            Sent::Done(put) => Ok(put),
            Sent::NoConditions => Err(Error::permanent(Area::Bucket, self.what("write", key))),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        key::check(key)?;
        let request =
            self.client.delete_object().bucket(&self.address.bucket).key(self.address.full_key(key));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if proves_absence(&error) => Ok(()),
            Err(error) => Err(explain(self.what("delete", key), Access::Delete, &error)),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage> {
        // Without `encoding-type=url`: what servers make of it differs, and the XML escapes every key that we write.
        let mut request = self
            .client
            .list_objects_v2()
            .bucket(&self.address.bucket)
            .prefix(self.address.full_key(prefix))
            .max_keys(PAGE);
        if depth == Depth::OneLevel {
            request = request.delimiter("/");
        }
        match after.map(|cursor| &cursor.0) {
            Some(Position::Key(key)) => request = request.start_after(self.address.full_key(key)),
            Some(Position::Token(token)) => request = request.continuation_token(token),
            None => {}
        }
        match request.send().await {
            Ok(output) => {
                let mut page = self.page(&output)?;
                if let Some(Position::Key(after)) = after.map(|cursor| &cursor.0) {
                    // Some servers take no notice of `start-after`.
                    page.objects.retain(|object| object.key > *after);
                }
                Ok(page)
            }
            Err(error) => Err(explain(self.what("list", &format!("{prefix}*")), Access::List, &error)),
        }
    }

    async fn start_multipart(&self, key: &str, kind: ContentType) -> Result<Box<dyn Multipart>> {
        key::check(key)?;
        Ok(Box::new(S3Multipart::start(self.clone(), key, kind).await?))
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
        s3_policy::allow(self).await
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
fn proves_absence<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    matches!(answer(error), (Some(404), Some("NoSuchKey" | "NotFound")))
}

enum Unread {
    TooLarge,
    Broken(String),
}

async fn read_small(mut stream: ByteStream, announced: Option<i64>) -> Result<Bytes, Unread> {
    let announced = announced.and_then(|size| u64::try_from(size).ok());
    if announced.is_some_and(|size| size > MAX_SMALL) {
        return Err(Unread::TooLarge);
    }
    let read = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk =
                chunk.map_err(|error| Unread::Broken(format!("the answer broke off: {}", chain(&error))))?;
            body.extend_from_slice(&chunk);
            if body.len() as u64 > MAX_SMALL {
                return Err(Unread::TooLarge);
            }
        }
        match announced {
            Some(size) if size != body.len() as u64 => {
                Err(Unread::Broken(format!("the answer broke off after {} of {size} bytes", body.len())))
            }
            _ => Ok(body.freeze()),
        }
    };
    match tokio::time::timeout(BODY, read).await {
        Ok(read) => read,
        Err(_) => Err(Unread::Broken("the answer did not end in time".into())),
    }
}

/// As forms encode: `+` is a space.
fn url_decode(key: &str) -> String {
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
#[path = "s3_tests.rs"]
mod tests;
