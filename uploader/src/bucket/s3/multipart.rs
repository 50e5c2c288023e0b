//! Objects sent to S3 in parts.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use larder_hook::fault::point;

use super::client::for_assembly;
use super::error::{Access, answer, explain, failure, refusal};
use super::retry::{asked_for, asks_for_less};
use super::store::S3Bucket;
use super::throttle::Turn;
use crate::base::error::{Area, Error, Result, Retry};
use crate::base::lock::lock;
use crate::bucket::interface::{Body, Bucket, ContentType, Multipart};

/// The most parts that S3 takes.
const MAX_PARTS: u32 = 10_000;

/// An upload that the server knows by its id.
pub(super) struct S3Multipart {
    bucket: S3Bucket,
    key: String,
    id: String,
    sent: Mutex<BTreeMap<u32, Sent>>,
}

#[derive(Clone)]
struct Sent {
    etag: String,
    size: u64,
}

impl S3Multipart {
    pub(super) async fn start(bucket: S3Bucket, key: &str, kind: ContentType) -> Result<Self> {
        let what = || bucket.what("start the upload of", key);
        let turn = bucket.turn().await.map_err(|error| failure(what(), &error))?;
        point("multipart: before its start");
        let output = bucket
            .client
            .create_multipart_upload()
            .bucket(&bucket.address.bucket)
            .key(bucket.address.full_key(key))
            .content_type(kind.as_str())
            .send()
            .await;
        point("multipart: started");
        end(turn, &output);
        let output = output.map_err(|error| explain(what(), Access::Write, &error))?;
        let Some(id) = output.upload_id else {
            return Err(
                Error::new(Area::Bucket, Retry::Unknown, what()).because("the answer has no upload id")
            );
        };
        Ok(Self { bucket, key: key.to_owned(), id, sent: Mutex::default() })
    }

    fn what(&self, verb: &str) -> String {
        self.bucket.what(verb, &self.key)
    }

    /// Whether an object of the right size stands: what a lost answer to the last request leaves behind.
    async fn stands(&self, size: u64) -> bool {
        matches!(self.bucket.head(&self.key).await, Ok(Some(found)) if found.size == size)
    }
}

/// Ends the turn of a request of the SDK's client, with what its answer says of the server.
fn end<T, E: ProvideErrorMetadata>(turn: Turn<'_>, output: &Result<T, SdkError<E>>) {
    match output {
        Ok(_) => turn.answered(),
        Err(error) => {
            let (status, code) = answer(error);
            if asks_for_less(status.unwrap_or_default(), code.unwrap_or_default()) {
                turn.refused(error.raw_response().and_then(|response| asked_for(response.headers())));
            }
        }
    }
}

#[async_trait]
impl Multipart for S3Multipart {
    async fn part(&self, number: u32, body: Body) -> Result<()> {
        let verb = format!("send part {number} of");
        let what = || self.what(&verb);
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(Error::permanent(Area::Bucket, what()).because("parts count from 1 to 10000"));
        }
        let size = body.bytes.len();
        let request = self
            .bucket
            .request("PUT", &self.key)
            .query("partNumber", number.to_string())
            .query("uploadId", &self.id)
            .body(body);
        let reply = self.bucket.send(request, &verb, &self.key).await?;
        if !reply.is_success() {
            return Err(refusal(what(), Access::Write, &reply));
        }
        let Some(etag) = reply.etag() else {
            return Err(
                Error::new(Area::Bucket, Retry::Unknown, what()).because("the answer has no entity tag")
            );
        };
        let sent = Sent { etag, size: u64::try_from(size).unwrap_or(u64::MAX) };
        lock(&self.sent).insert(number, sent);
        Ok(())
    }

    async fn complete(self: Box<Self>) -> Result<()> {
        let what = || self.what("finish the upload of");
        let sent = lock(&self.sent).clone();
        if sent.is_empty() || !sent.keys().copied().eq(1..=u32::try_from(sent.len()).unwrap_or(u32::MAX)) {
            return Err(Error::permanent(Area::Bucket, what()).because("its parts are not all there"));
        }
        let parts = sent.iter().map(|(number, part)| {
            let number = i32::try_from(*number).unwrap_or(i32::MAX);
            CompletedPart::builder().part_number(number).e_tag(&part.etag).build()
        });
        let upload = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let request = self
            .bucket
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.address.bucket)
            .key(self.bucket.address.full_key(&self.key))
            .upload_id(&self.id)
            .multipart_upload(upload);
        let turn = self.bucket.turn().await.map_err(|error| failure(what(), &error))?;
        point("multipart: before its end");
        let output = request.customize().config_override(for_assembly()).send().await;
        point("multipart: ended");
        end(turn, &output);
        match output {
            // The status of this answer is sent before the work is done: only its body tells.
            Ok(output)
                if output.e_tag().is_some() || output.key().is_some() || output.location().is_some() =>
            {
                Ok(())
            }
            Ok(_) => Err(Error::new(Area::Bucket, Retry::Unknown, what())
                .because("the answer does not say that the object stands")),
            Err(error) => {
                let size = sent.values().map(|part| part.size).sum();
                if answer(&error).1 == Some("NoSuchUpload") && self.stands(size).await {
                    return Ok(());
                }
                Err(explain(what(), Access::Write, &error))
            }
        }
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let request = self
            .bucket
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket.address.bucket)
            .key(self.bucket.address.full_key(&self.key))
            .upload_id(&self.id);
        let what = || self.what("give up the upload of");
        let turn = self.bucket.turn().await.map_err(|error| failure(what(), &error))?;
        let output = request.send().await;
        end(turn, &output);
        match output {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("NoSuchUpload") => Ok(()),
            Err(error) => Err(explain(what(), Access::Write, &error)),
        }
    }
}
