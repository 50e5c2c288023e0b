//! Verifies a NAR object that this session did not write: the object is downloaded, decompressed and hashed, before a
//! narinfo of this session names it, and before larder signs a narinfo that names it.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Mutex;

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc};

use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::bucket::Bucket;
use crate::format::narinfo::NarObject;
use crate::format::object_keys::Compression;
use crate::format::path_info::{PathInfo, is_small};

/// The part of an object that is downloaded by one request, in bytes.
const PART: u64 = 4 << 20;
/// The largest window of zstd that is accepted, as a power of two. larder writes no larger windows.
const WINDOW_LOG: u32 = 25;
/// The most memory that the decoder of xz may use, in bytes. The highest level of xz needs 65 MiB.
const XZ_MEMORY: u64 = 80 << 20;

/// The number of small NARs that are verified at the same time. A large NAR takes [`LARGE_SHARE`] of these places, which
/// bounds the memory of the decoders.
const PLACES: usize = 16;
/// The number of places that a large NAR takes.
const LARGE_SHARE: u32 = 8;

/// Verifies the NARs that a session relies on, each once.
#[derive(Debug)]
pub struct Verifier {
    /// Whether the contents of NARs are believed.
    trusts: bool,
    /// The keys of the objects that were found sound.
    sound: Mutex<HashSet<String>>,
    places: Semaphore,
}

impl Verifier {
    /// A verifier, which believes every NAR if it `trusts` the bucket.
    pub fn new(trusts: bool) -> Self {
        Self { trusts, sound: Mutex::default(), places: Semaphore::new(PLACES) }
    }

    /// Whether an object with this key needs no check (any more).
    pub fn believes(&self, key: &str) -> bool {
        self.trusts || lock(&self.sound).contains(key)
    }

    /// Checks that an object whose key and size say that it is the NAR of the path really is that NAR. Returns the object,
    /// with its hash if it was read now, or `None` if it is another NAR.
    ///
    /// # Errors
    /// When the object cannot be downloaded.
    pub async fn check(
        &self,
        bucket: &dyn Bucket,
        info: &PathInfo,
        object: NarObject,
    ) -> Result<Option<NarObject>> {
        if self.believes(&object.key) {
            return Ok(Some(object));
        }
        let share = if is_small(info.nar_size) { 1 } else { LARGE_SHARE };
        let place = self.places.acquire_many(share).await;
        let _place = place.map_err(|_| Error::permanent(Area::General, "the push is over"))?;
        let verified = verify(bucket, info, object).await?;
        lock(&self.sound).extend(verified.iter().map(|object| object.key.clone()));
        Ok(verified)
    }
}

/// Reads an object whose key and size say that it is the NAR of the path. Returns the object with its hash, or `None` if
/// it is not that NAR.
///
/// # Errors
/// When the object cannot be downloaded.
async fn verify(bucket: &dyn Bucket, info: &PathInfo, object: NarObject) -> Result<Option<NarObject>> {
    let (sender, parts) = mpsc::channel(1);
    let (compression, hash, size) = (object.compression, info.nar_hash, info.nar_size);
    let decoder = tokio::task::spawn_blocking(move || decode(compression, Parts::new(parts), &hash, size));
    let downloaded = download(bucket, &object, sender).await;
    let file_hash = decoder.await.map_err(|error| {
        Error::permanent(Area::General, "the thread that decompresses a NAR ended early").because(error)
    })?;
    let complete = downloaded?;
    Ok(file_hash.filter(|_| complete).map(|file_hash| NarObject { file_hash: Some(file_hash), ..object }))
}

/// Hands the bytes of the object over in parts. The result is false if the object does not have the size of the listing,
/// or the receiver has seen enough.
async fn download(bucket: &dyn Bucket, object: &NarObject, sender: mpsc::Sender<Bytes>) -> Result<bool> {
    let size = object.file_size.unwrap_or_default();
    let mut from = 0;
    while from < size {
        let length = PART.min(size - from);
        let part = bucket.get_part(&object.key, from, length).await?;
        let Some(part) = part.filter(|part| part.len() as u64 == length) else { return Ok(false) };
        if sender.send(part).await.is_err() {
            return Ok(false);
        }
        from += length;
    }
    Ok(true)
}

/// Decompresses an object, and compares the result with the hash and the size of the NAR. Returns the hash of the object;
/// `None` if it is not the NAR.
fn decode(compression: Compression, parts: Parts, nar_hash: &[u8; 32], nar_size: u64) -> Option<[u8; 32]> {
    let (hash, size, file_hash) = match compression {
        Compression::None => {
            let mut plain = parts;
            let (hash, size) = digest(&mut plain, nar_size).ok()?;
            (hash, size, plain.hash)
        }
        Compression::Zstd => {
            let mut zstd = zstd::stream::read::Decoder::new(parts).ok()?;
            zstd.window_log_max(WINDOW_LOG).ok()?;
            let (hash, size) = digest(&mut zstd, nar_size).ok()?;
            (hash, size, zstd.finish().into_inner().hash)
        }
        Compression::Xz => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED).ok()?;
            let mut xz = liblzma::read::XzDecoder::new_stream(parts, stream);
            let (hash, size) = digest(&mut xz, nar_size).ok()?;
            (hash, size, xz.into_inner().hash)
        }
    };
    (hash == *nar_hash && size == nar_size).then(|| file_hash.finalize().into())
}

/// Hash and size of what `reader` gives. It is read up to the end, or until it is longer than `most` bytes.
fn digest(reader: &mut impl Read, most: u64) -> io::Result<([u8; 32], u64)> {
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 128 << 10]);
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok((hash.finalize().into(), size)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        size += count as u64;
        if size > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        hash.update(&buffer[..count]);
    }
}

/// The bytes of an object, as they are downloaded, and the hash of the bytes that were read.
struct Parts {
    parts: mpsc::Receiver<Bytes>,
    part: Bytes,
    hash: Sha256,
}

impl Parts {
    fn new(parts: mpsc::Receiver<Bytes>) -> Self {
        Self { parts, part: Bytes::new(), hash: Sha256::new() }
    }
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.part.is_empty() {
            let Some(part) = self.parts.blocking_recv() else { return Ok(0) };
            self.part = part;
        }
        let count = self.part.len().min(buffer.len());
        self.part.copy_to_slice(&mut buffer[..count]);
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
