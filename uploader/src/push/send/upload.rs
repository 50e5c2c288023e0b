//! One NAR on its way into the bucket: a thread produces the compressed stream in parts, see [`produce`](super::produce),
//! and the async side sends them.
//!
//! Small NARs are one PUT from memory, larger ones a multipart upload. Nothing becomes visible before the NAR's hash and
//! size have been found to be those that the store promised: the PUT, or the completion of the multipart upload, comes
//! after the comparison.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::budget::{Budget, Part};
use super::compress::Contexts;
use super::pace::Pace;
use super::produce::{Produced, corrupt};
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Body, Bucket, Condition, ContentType, Multipart};
use crate::format::narinfo::NarObject;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::push::progress::Progress;
use crate::store::{Digested, StoreLocation};

/// How many parts of one NAR are on the wire at the same time.
const IN_FLIGHT: usize = 6;

/// What uploading one NAR takes.
#[derive(Clone, Debug)]
pub struct Uploader {
    /// Where it goes.
    pub bucket: Arc<dyn Bucket>,
    /// The id of the session that it belongs to.
    pub writer: String,
    /// Where it comes from.
    pub store: Arc<StoreLocation>,
    /// The format that it is compressed in, and how hard.
    pub pace: Arc<Pace>,
    /// What compressors work in.
    pub contexts: Arc<Contexts>,
    /// Memory for parts.
    pub budget: Budget,
    /// Whether a listing is made on the way.
    pub listing: bool,
}

/// A NAR that is in the bucket now.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// The object.
    pub object: NarObject,
    /// Bytes that were sent for it; 0 when it is shared.
    pub sent: u64,
    /// Its listing, when one was made.
    pub listing: Option<String>,
    /// When it was known to be there.
    pub at: Moment,
}

impl Uploader {
    /// Uploads the NAR of a path under a fresh key. `turn` is given back as soon as the last byte is compressed: what
    /// is left to send then needs the wire and memory, but no processor.
    ///
    /// # Errors
    /// A path whose contents are not what the store promised is a permanent error of the store.
    pub async fn upload(
        &self,
        info: &Arc<PathInfo>,
        turn: OwnedSemaphorePermit,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        let compression = self.pace.settings().compression;
        let key = object_keys::new_nar(&info.nar_hash, compression, &self.writer);
        let (sender, mut parts) = mpsc::channel::<Part>(1);
        let producer = {
            let (this, info, progress) = (self.clone(), info.clone(), progress.clone());
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                this.produce(&info, &sender, &runtime, &*progress)
            })
        };
        let sent = self.send_parts(&key, &mut parts).await;
        // With the receiver gone, a producer that is still at work finds out and stops.
        drop(parts);
        let produced = producer.await.unwrap_or_else(|error| {
            Err(Error::permanent(Area::General, "the thread that reads a NAR died").because(error))
        });
        let upload = match (sent, produced) {
            (Ok(upload), Ok(produced)) => self.finish(&key, upload, produced, info).await,
            (Ok(upload), Err(error)) => give_up(upload, error).await,
            // The producer's complaint about a closed channel says less than why it was closed.
            (Err(error), _) => Err(error),
        };
        let (file, listing) = upload?;
        let object = NarObject { key, compression, file_hash: Some(file.sha256), file_size: Some(file.size) };
        Ok(Uploaded { object, sent: file.size, listing, at: Moment::now() })
    }

    /// Sends full parts as they come; `None` when there was none.
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

    /// Compares what was read with what was promised, and only then makes the object visible.
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
                // The rest is the whole file. Its key is used once: a condition would only have the server look.
                let body = Body { bytes: rest.bytes.clone(), sha256: Some(file.sha256) };
                self.bucket.put(key, body, ContentType::Nar, Condition::None).await?;
            }
            Some(Sending { upload, parts }) => {
                // A stream that ends with a full part leaves nothing over.
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
    /// Sends `first` and what follows it, several at a time, until the producer ends.
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

/// Takes back what was sent and hands the error on.
async fn give_up<T>(sending: Option<Sending>, error: Error) -> Result<T> {
    if let Some(sending) = sending {
        // Best effort: the error that matters is the first one.
        let _ = sending.upload.abort().await;
    }
    Err(error)
}
