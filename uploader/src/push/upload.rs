//! One NAR on its way into the bucket: read, hash, compress, hash, put.
//!
//! A thread produces the compressed stream in parts; the async side sends them. Small NARs are one PUT from memory,
//! larger ones a multipart upload. Nothing becomes visible before the NAR's hash and size have been found to be those
//! that the store promised: the PUT, or the completion of the multipart upload, comes after the comparison.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix_derivation::nixbase32;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::clock::Moment;
use super::compress::{Compressor, Settings};
use super::progress::Progress;
use crate::bucket::{Body, Bucket, Condition, ContentType, Multipart};
use crate::cache::keys;
use crate::cache::listing::ListingWriter;
use crate::cache::narinfo::NarObject;
use crate::error::{Area, Error, Result, Retry};
use crate::store::{Digested, HashingWriter, NarError, PathInfo, StoreLocation, dump};

/// The usual size of a part. S3 wants at least 5 MiB.
const PART: u64 = 8 << 20;
/// S3 takes 10,000 parts; a margin for streams that compression makes longer.
const PARTS: u64 = 9_500;
/// How many parts of one NAR are on the wire at the same time.
const IN_FLIGHT: usize = 4;
/// The unit in which memory is budgeted.
const UNIT: u64 = 64 << 10;

/// The memory that compressed parts may take up, over all uploads.
#[derive(Clone, Debug)]
pub struct Budget {
    semaphore: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let total = Self::units(bytes);
        Self { semaphore: Arc::new(Semaphore::new(total as usize)), total }
    }

    fn units(bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 3).max(1)
    }

    /// Waits for the memory of one part. One that is larger than the whole budget gets all of it.
    async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
        self.semaphore.clone().acquire_many_owned(Self::units(bytes).min(self.total)).await
    }
}

/// The size of the parts of a NAR's object.
fn part_size(nar_size: u64) -> u64 {
    (nar_size / PARTS).max(PART).next_multiple_of(1 << 20)
}

/// What uploading one NAR takes.
#[derive(Clone, Debug)]
pub struct Uploader {
    /// Where it goes.
    pub bucket: Arc<dyn Bucket>,
    /// Where it comes from.
    pub store: Arc<StoreLocation>,
    /// How it is compressed.
    pub settings: Settings,
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

/// A piece of the compressed stream, holding its share of the budget.
struct Part {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

/// What the producing thread found out.
struct Produced {
    nar: Digested,
    file: Digested,
    listing: Option<String>,
    /// What did not fill a whole part.
    rest: Part,
}

impl Uploader {
    /// Uploads the NAR of a path under a fresh key.
    ///
    /// # Errors
    /// A path whose contents are not what the store promised is a permanent error of the store.
    pub async fn upload(&self, info: &Arc<PathInfo>, progress: &Arc<dyn Progress>) -> Result<Uploaded> {
        let key = keys::new_nar(&info.nar_hash, self.settings.compression);
        let (sender, mut parts) = mpsc::channel::<Part>(1);
        let producer = {
            let (this, info, progress) = (self.clone(), info.clone(), progress.clone());
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || this.produce(&info, &sender, &runtime, &*progress))
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
        let object = NarObject {
            key,
            compression: self.settings.compression,
            file_hash: Some(file.sha256),
            file_size: Some(file.size),
        };
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
                // The rest is the whole file.
                let body = Body { bytes: rest.bytes, sha256: Some(file.sha256) };
                self.bucket.put(key, body, ContentType::Nar, Condition::IfAbsent).await?;
            }
            Some(Sending { upload, parts }) => {
                // A stream that ends with a full part leaves nothing over.
                let sent = match rest.bytes.is_empty() {
                    true => Ok(()),
                    false => upload.part(parts + 1, rest.bytes.into()).await,
                };
                match sent {
                    Ok(()) => upload.complete().await?,
                    Err(error) => return give_up(Some(Sending { upload, parts }), error).await,
                }
            }
        }
        Ok((file, listing))
    }

    /// Reads, hashes and compresses; runs in a thread of its own.
    fn produce(
        &self,
        info: &PathInfo,
        sender: &mpsc::Sender<Part>,
        runtime: &tokio::runtime::Handle,
        progress: &dyn Progress,
    ) -> Result<Produced> {
        let size = part_size(info.nar_size);
        let sink = PartSink {
            // Incompressible data grows a little.
            part_size: size.min(info.nar_size + info.nar_size / 128 + 4096),
            buffer: Vec::new(),
            permit: None,
            sender,
            runtime,
            budget: &self.budget,
        };
        let cannot = |error: io::Error| {
            Error::new(Area::Store, Retry::Unknown, format!("cannot compress `{}`", info.path.to_basename()))
                .because(error)
        };
        let compressor =
            Compressor::new(self.settings, info.nar_size, HashingWriter::new(sink)).map_err(cannot)?;
        let listing = self.listing.then(ListingWriter::new);
        let mut tee = HashingWriter::new(Tee {
            out: compressor,
            listing,
            left: info.nar_size,
            too_long: false,
            progress,
        });
        match dump(&self.store, &info.path, &mut tee) {
            Ok(()) => {}
            // Reading stopped where the NAR grew longer than promised.
            Err(NarError::Sink(_)) if tee.get_mut().too_long => {
                let (_, nar) = tee.finish();
                return Err(corrupt(info, &nar));
            }
            Err(NarError::Gone(_)) => return Err(gone(info)),
            Err(error) => return Err(error.into()),
        }
        let (tee, nar) = tee.finish();
        if nar.size != info.nar_size {
            return Err(corrupt(info, &nar));
        }
        let (mut sink, file) = tee.out.finish().map_err(cannot)?.finish();
        let rest = sink.take().map_err(cannot)?;
        // A listing is an extra: without one, the path is pushed all the same.
        let listing = tee.listing.and_then(|listing| listing.finish().ok());
        Ok(Produced { nar, file, listing, rest })
    }
}

/// The error of a path whose files are not where they should be. Whether the path itself is gone only the store can
/// tell.
fn gone(info: &PathInfo) -> Error {
    Error::new(
        Area::Store,
        Retry::Unknown,
        format!("the files of `{}` are not there", info.path.to_basename()),
    )
    .hint("is the store mounted, and `real-store-dir` right?")
}

fn corrupt(info: &PathInfo, found: &Digested) -> Error {
    let name = info.path.to_basename();
    Error::permanent(Area::Store, format!("`{name}` is corrupt"))
        .because(format!(
            "the store promises a NAR of {} bytes with hash {}, its files make {} bytes with hash {}",
            info.nar_size,
            info.nar_hash_nix32(),
            found.size,
            nixbase32::encode(&found.sha256)
        ))
        .hint("`nix-store --repair-path` or `nix store repair` mends it, then `larder retry` pushes it")
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

/// Cuts a stream into parts and hands the full ones to the async side.
struct PartSink<'a> {
    part_size: u64,
    buffer: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
    sender: &'a mpsc::Sender<Part>,
    runtime: &'a tokio::runtime::Handle,
    budget: &'a Budget,
}

impl PartSink<'_> {
    fn capacity(&self) -> usize {
        usize::try_from(self.part_size).unwrap_or(usize::MAX)
    }

    fn reserve(&mut self) -> io::Result<()> {
        if self.permit.is_none() {
            let permit = self.budget.take(self.part_size);
            self.permit = Some(self.runtime.block_on(permit).map_err(io::Error::other)?);
            self.buffer.reserve_exact(self.capacity());
        }
        Ok(())
    }

    fn take(&mut self) -> io::Result<Part> {
        self.reserve()?;
        let permit = self.permit.take().ok_or_else(|| io::Error::other("no budget"))?;
        Ok(Part { bytes: std::mem::take(&mut self.buffer).into(), _permit: permit })
    }
}

impl Write for PartSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reserve()?;
        let count = bytes.len().min(self.capacity() - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == self.capacity() {
            let part = self.take()?;
            self.sender.blocking_send(part).map_err(|_| io::Error::other("the upload was given up"))?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes a NAR on to the compressor and, where wanted, to the listing; never more of it than was promised.
struct Tee<'a, W> {
    out: W,
    listing: Option<ListingWriter>,
    left: u64,
    too_long: bool,
    progress: &'a dyn Progress,
}

impl<W: Write> Write for Tee<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() as u64;
        if length > self.left {
            self.too_long = true;
            return Err(io::Error::other("longer than promised"));
        }
        self.left -= length;
        self.out.write_all(bytes)?;
        if self.listing.as_mut().is_some_and(|listing| listing.write_all(bytes).is_err()) {
            self.listing = None;
        }
        self.progress.advanced(length);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
