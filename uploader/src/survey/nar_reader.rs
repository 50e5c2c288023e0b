//! Reads a NAR object: downloads it, decompresses it, and hashes both the object and the NAR.

use std::io::{self, Read};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::decode::decoder;
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::bucket::Bucket;

/// The part of an object that is downloaded by one request, in bytes.
const PART: u64 = 4 << 20;
/// The size of the buffer behind a decoder, in bytes.
const BUFFER: usize = 128 << 10;

/// An object that holds a NAR.
#[derive(Clone, Debug)]
pub struct NarSource {
    /// The key.
    pub key: String,
    /// The size of the object in bytes, as the bucket states it.
    pub size: u64,
    /// The label of the compression in a narinfo.
    pub label: &'static str,
    /// The largest window of zstd that is accepted, as a power of two. The decoder may need as much memory.
    pub zstd_window: u32,
    /// The size of the NAR in bytes. The decoder stops when the NAR is longer.
    pub nar_size: u64,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NarContents {
    /// The SHA-256 of the NAR.
    pub nar_hash: [u8; 32],
    /// The size of the NAR in bytes.
    pub nar_size: u64,
    /// The SHA-256 of the object.
    pub file_hash: [u8; 32],
}

/// Why an object is not the NAR that it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NarFault {
    /// The object is gone, or is shorter than the bucket stated.
    Short,
    /// The object cannot be decompressed, for this reason.
    Undecodable(String),
    /// The NAR is longer than it should be.
    TooLong,
}

/// Reads a NAR object. Hands all bytes of the NAR to `consume`, in order, in a thread that may block. The NAR counts only
/// when its hash turns out to be right.
///
/// # Errors
/// When the object cannot be downloaded, or `consume` fails.
pub async fn read_nar(
    bucket: &dyn Bucket,
    source: &NarSource,
    rate: Option<&ByteRate>,
    consume: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
) -> Result<Result<NarContents, NarFault>> {
    read_nar_from(source, |sender| download(bucket, source, rate, sender), consume).await
}

/// The same, for an object that `download` downloads: it sends the bytes in order, and ends early when the receiver is
/// gone. Its result is false if the object is shorter than its server stated.
///
/// # Errors
/// When `download` or `consume` fails.
pub async fn read_nar_from<D: Future<Output = Result<bool>>>(
    source: &NarSource,
    download: impl FnOnce(mpsc::Sender<Bytes>) -> D,
    consume: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
) -> Result<Result<NarContents, NarFault>> {
    let (sender, parts) = mpsc::channel(1);
    let (label, window, nar_size) = (source.label, source.zstd_window, source.nar_size);
    let decoding = tokio::task::spawn_blocking(move || decode(label, window, nar_size, parts, consume));
    let downloaded = download(sender).await;
    let decoded = decoding.await.map_err(|error| {
        Error::permanent(Area::General, "the thread that decompresses a NAR ended early").because(error)
    })?;
    let is_complete = downloaded?;
    match decoded {
        Err(Failure::Consumer(error)) => {
            Err(Error::permanent(Area::General, format!("cannot use the NAR `{}`", source.key))
                .because(error))
        }
        Err(Failure::Fault(fault)) if is_complete || fault == NarFault::TooLong => Ok(Err(fault)),
        Ok(contents) if is_complete => Ok(Ok(contents)),
        _ => Ok(Err(NarFault::Short)),
    }
}

/// Hands the bytes of the object over in parts. The result is false if the object is shorter than the bucket stated. If the
/// receiver has seen enough, the rest is not downloaded.
async fn download(
    bucket: &dyn Bucket,
    source: &NarSource,
    rate: Option<&ByteRate>,
    sender: mpsc::Sender<Bytes>,
) -> Result<bool> {
    let mut from = 0;
    while from < source.size {
        let length = PART.min(source.size - from);
        if let Some(rate) = rate {
            rate.spend(length).await;
        }
        let part = bucket.get_part(&source.key, from, length).await?;
        let Some(part) = part.filter(|part| part.len() as u64 == length) else { return Ok(false) };
        if sender.send(part).await.is_err() {
            return Ok(true);
        }
        from += length;
    }
    Ok(true)
}

enum Failure {
    Fault(NarFault),
    Consumer(io::Error),
}

fn decode(
    label: &str,
    zstd_window: u32,
    nar_size: u64,
    parts: mpsc::Receiver<Bytes>,
    mut consume: impl FnMut(&[u8]) -> io::Result<()>,
) -> std::result::Result<NarContents, Failure> {
    let mut parts = Parts { parts, part: Bytes::new(), hash: Sha256::new() };
    let undecodable = |error: io::Error| Failure::Fault(NarFault::Undecodable(error.to_string()));
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
    let mut nar = decoder(label, &mut parts, zstd_window).map_err(undecodable)?;
    loop {
        let count = match nar.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(undecodable(error)),
        };
        size += count as u64;
        if size > nar_size {
            return Err(Failure::Fault(NarFault::TooLong));
        }
        hash.update(&buffer[..count]);
        consume(&buffer[..count]).map_err(Failure::Consumer)?;
    }
    drop(nar);
    // A decoder need not read to the end of the object, which the hash of the object covers.
    io::copy(&mut parts, &mut io::sink()).map_err(undecodable)?;
    let (nar_hash, file_hash) = (hash.finalize().into(), parts.hash.finalize().into());
    Ok(NarContents { nar_hash, nar_size: size, file_hash })
}

/// The bytes of an object, as they are downloaded, and the hash of the bytes that were read.
struct Parts {
    parts: mpsc::Receiver<Bytes>,
    part: Bytes,
    hash: Sha256,
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

/// A limit for the bytes that are downloaded in a second.
#[derive(Debug)]
pub struct ByteRate {
    bytes_a_second: u64,
    /// When the next part may be downloaded.
    next: Mutex<Option<Instant>>,
}

impl ByteRate {
    /// A limit of this many bytes a second; at least one.
    pub fn new(bytes_a_second: u64) -> Self {
        Self { bytes_a_second: bytes_a_second.max(1), next: Mutex::default() }
    }

    /// Waits until so many bytes may be downloaded.
    async fn spend(&self, bytes: u64) {
        let at = self.turn(bytes, Instant::now());
        tokio::time::sleep_until(at.into()).await;
    }

    fn turn(&self, bytes: u64, now: Instant) -> Instant {
        let mut next = lock(&self.next);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + Duration::from_secs_f64(bytes as f64 / self.bytes_a_second as f64));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_several_parts_and_unused_time_is_lost() {
        let (rate, now) = (ByteRate::new(100), Instant::now());
        assert_eq!(rate.turn(100, now), now);
        assert_eq!(rate.turn(50, now), now + Duration::from_secs(1));
        assert_eq!(rate.turn(50, now), now + Duration::from_millis(1500));
        let later = now + Duration::from_secs(60);
        assert_eq!(rate.turn(100, later), later);
        assert_eq!(rate.turn(100, later), later + Duration::from_secs(1));
    }
}
