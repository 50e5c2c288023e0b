//! Uploads one NAR: a thread produces the compressed stream in parts (see [`produce`](super::produce)), and the async
//! side sends them.
//!
//! An object of one part is one PUT from memory; a larger object is a multipart upload. The object becomes visible only
//! when hash and size of the NAR equal those that the store promises: the PUT, or the completion of the multipart
//! upload, comes after the comparison.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::budget::Part;
use super::produce::{NarOrigin, Produced, Producer, corrupt};
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Body, Bucket, Condition, ContentType, Multipart};
use crate::format::narinfo::NarObject;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::push::progress::Progress;
use crate::store::Digested;

/// The number of parts of one NAR that are sent at the same time.
const IN_FLIGHT: usize = 6;

/// Uploads NARs into a bucket.
#[derive(Clone, Debug)]
pub(super) struct Uploader {
    /// The bucket.
    pub(super) bucket: Arc<dyn Bucket>,
    /// The id of the session, which becomes a part of each key.
    pub(super) writer: String,
    /// Produces the objects.
    pub(super) producer: Producer,
}

/// A NAR that is in the bucket now.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// The object in the bucket.
    pub object: NarObject,
    /// The number of bytes sent for the object; 0 for a shared object.
    pub sent: u64,
    /// The listing of the NAR, in case this push made it.
    pub listing: Option<String>,
    /// The time at which the object was last known to be in the bucket.
    pub at: Moment,
}

impl Uploader {
    /// Uploads the NAR of a path under a new key. `place` is given back as soon as the last byte is compressed: the
    /// rest needs the network and memory, but no processor.
    ///
    /// # Errors
    /// A path whose files are not the NAR that the store promises is a permanent error of the store.
    pub(super) async fn upload(
        &self,
        info: &Arc<PathInfo>,
        origin: NarOrigin,
        place: OwnedSemaphorePermit,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        let compression = self.producer.effort_control.settings().compression;
        let key = object_keys::new_nar(&info.nar_hash, compression, &self.writer);
        let (sender, mut parts) = mpsc::channel::<Part>(1);
        let producer = {
            let (producer, info, progress) = (self.producer.clone(), info.clone(), progress.clone());
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || {
                let _place = place;
                producer.produce(&info, origin, &sender, &runtime, &*progress)
            })
        };
        let sent = self.send_parts(&key, &mut parts).await;
        // A producer that still works stops when the receiver is gone.
        drop(parts);
        let produced = producer.await.unwrap_or_else(|error| {
            Err(Error::permanent(Area::General, "the thread that reads a NAR ended early").because(error))
        });
        let upload = match (sent, produced) {
            (Ok(upload), Ok(produced)) => self.finish(&key, upload, produced, info).await,
            (Ok(upload), Err(error)) => give_up(upload, error).await,
            // The producer's error is about the closed channel. The error that closed it says more.
            (Err(error), _) => Err(error),
        };
        let (file, listing) = upload?;
        let object = NarObject { key, compression, file_hash: Some(file.sha256), file_size: Some(file.size) };
        Ok(Uploaded { object, sent: file.size, listing, at: Moment::now() })
    }

    /// Sends each full part as soon as it is produced. The result is `None` when there was no full part.
    async fn send_parts(&self, key: &str, parts: &mut mpsc::Receiver<Part>) -> Result<Option<Sending>> {
        let mut sending: Option<Sending> = None;
        while let Some(part) = parts.recv().await {
            let open = match sending.take() {
                Some(open) => open,
                None => {
                    Sending { upload: self.bucket.start_multipart(key, ContentType::Nar).await?, parts: 0 }
                }
            };
            sending = Some(open.send_with(part, parts).await?);
        }
        Ok(sending)
    }

    /// Compares the NAR with the promise of the store, and only then makes the object visible.
    async fn finish(
        &self,
        key: &str,
        upload: Option<Sending>,
        produced: Produced,
        info: &PathInfo,
    ) -> Result<(Digested, Option<String>)> {
        let Produced { nar, file, listing, rest } = produced;
        if nar.sha256 != info.nar_hash || nar.size != info.nar_size {
            return give_up(upload, corrupt(info, &nar)).await;
        }
        match upload {
            None => {
                // The rest is the whole object. Its key is used once, so a condition would only make the server search
                // for an object.
                let body = Body { bytes: rest.bytes.clone(), sha256: Some(file.sha256) };
                self.bucket.put(key, body, ContentType::Nar, Condition::None).await?;
            }
            Some(Sending { upload, parts }) => {
                // The rest is empty when the stream ends with a full part.
                let sent = match rest.bytes.is_empty() {
                    true => Ok(()),
                    false => upload.part(parts + 1, rest.bytes.clone().into()).await,
                };
                match sent {
                    Ok(()) => upload.complete().await?,
                    Err(error) => return give_up(Some(Sending { upload, parts }), error).await,
                }
            }
        }
        Ok((file, listing))
    }
}

/// A multipart upload that has begun.
struct Sending {
    upload: Box<dyn Multipart>,
    parts: u32,
}

impl Sending {
    /// Sends `first` and the parts after it, several at a time, until the producer ends.
    async fn send_with(mut self, first: Part, parts: &mut mpsc::Receiver<Part>) -> Result<Self> {
        let mut failure = None;
        {
            let upload = &*self.upload;
            let send =
                |number: u32, part: Part| async move { upload.part(number, part.bytes.clone().into()).await };
            self.parts += 1;
            let mut running = FuturesUnordered::from_iter([send(self.parts, first)]);
            let mut open = true;
            while failure.is_none() && (open || !running.is_empty()) {
                tokio::select! {
                    Some(result) = running.next(), if !running.is_empty() => failure = result.err(),
                    part = parts.recv(), if open && running.len() < IN_FLIGHT => match part {
                        Some(part) => {
                            self.parts += 1;
                            running.push(send(self.parts, part));
                        }
                        None => open = false,
                    },
                }
            }
        }
        match failure {
            None => Ok(self),
            Some(error) => give_up(Some(self), error).await,
        }
    }
}

/// Aborts the upload, and passes the error on.
async fn give_up<T>(sending: Option<Sending>, error: Error) -> Result<T> {
    if let Some(sending) = sending {
        // The first error matters more than an error of the abort. A later session removes the upload.
        let _ = sending.upload.abort().await;
    }
    Err(error)
}
