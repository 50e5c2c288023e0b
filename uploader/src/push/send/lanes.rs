//! Limits the number of NARs that are processed at the same time: large NARs by processors, small NARs by readers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::error::{Area, Error, Result};

/// The number of small NARs that are read at the same time. Each reader has a thread, and waits for the disk.
const READERS: usize = 16;
/// The largest number of large NARs that are compressed at the same time. Each has a thread. The runtime has 512
/// threads for all blocking work.
const MOST_LARGE: usize = 64;
/// The number of large NARs that ask the bucket while others are compressed, so that no processor waits for the answer.
const AHEAD: usize = 2;

/// The places for NARs.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The number of large NARs that are compressed at the same time.
    pub(super) jobs: usize,
    /// Places for large NARs that ask the bucket.
    next: Arc<Semaphore>,
    /// Places for large NARs that are compressed.
    compressors: Arc<Semaphore>,
    /// Places for small NARs that are read.
    readers: Arc<Semaphore>,
}

impl Lanes {
    /// Lanes for `jobs` large NARs that are compressed at the same time, between 1 and 64.
    pub(super) fn new(jobs: usize) -> Self {
        let jobs = jobs.clamp(1, MOST_LARGE);
        let places = |count| Arc::new(Semaphore::new(count));
        Self { jobs, next: places(jobs + AHEAD), compressors: places(jobs), readers: places(READERS) }
    }

    /// The places for large NARs that are compressed. Free places mean that processors are free.
    pub(super) fn compressors(&self) -> Arc<Semaphore> {
        self.compressors.clone()
    }

    /// Waits until a large NAR may ask the bucket.
    pub(super) async fn next(&self) -> Result<OwnedSemaphorePermit> {
        place(&self.next).await
    }

    /// Waits until a large NAR may be compressed.
    pub(super) async fn compressor(&self) -> Result<OwnedSemaphorePermit> {
        place(&self.compressors).await
    }

    /// Waits until a small NAR may be read.
    pub(super) async fn reader(&self) -> Result<OwnedSemaphorePermit> {
        place(&self.readers).await
    }
}

async fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    let place = places.clone().acquire_owned().await;
    place.map_err(|_| Error::permanent(Area::General, "the push is over"))
}
