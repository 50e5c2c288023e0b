//! Reservations of large NARs, so that several hosts do not send the same NAR at the same time.
//!
//! A writer puts a reservation, on the condition that none exists, before it reads the NAR, and deletes it when the NAR
//! is in the bucket. A reservation is a hint and no lock: another writer works on other paths for a while, and then
//! tries again. The reservation of a killed writer delays other writers, and blocks none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::base::backoff::{Backoff, Jitter};
use crate::base::error::Retry;
use crate::bucket::{Bucket, Condition, ContentType, Put};
use crate::format::marker::Reservation as Contents;
use crate::format::object_keys;

/// The fixed part of the time that a writer waits for the reservation of another writer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The speed that determines the other part: the wait grows with the time to send the NAR over a fast network. On a
/// slow network, the wait is short beside the upload.
const BYTES_PER_SECOND: u64 = 32 << 20;
/// The pauses between two attempts to take a reservation.
const PAUSES: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2), jitter: Jitter::Fifth };

/// The reservations of a session.
#[derive(Debug)]
pub struct Reservations {
    bucket: Arc<dyn Bucket>,
    contents: String,
    /// Whether reservations work: the server honours conditions, and permits these writes.
    on: AtomicBool,
}

/// The writer that has reserved a NAR.
#[derive(Debug)]
pub enum Reserved {
    /// This writer, with the key of the reservation; or nobody. The NAR is to be sent.
    Ours(Option<String>),
    /// Another writer, with the key of its reservation.
    Theirs(String),
}

impl Reservations {
    /// The reservations of the session with this id.
    pub(super) fn new(bucket: Arc<dyn Bucket>, id: &str, conditional_writes: bool) -> Self {
        let contents = Contents { writer: id.into() }.to_json();
        Self { bucket, contents, on: AtomicBool::new(conditional_writes) }
    }

    /// Reserves a NAR, unless another writer has. After an error, the NAR counts as reserved by nobody.
    pub async fn take(&self, nar_hash: &[u8; 32]) -> Reserved {
        if !self.on.load(Ordering::Relaxed) {
            return Reserved::Ours(None);
        }
        let key = object_keys::reservation(nar_hash);
        let body = self.contents.clone().into();
        match self.bucket.put(&key, body, ContentType::Json, Condition::IfAbsent).await {
            Ok(Put::Written) => Reserved::Ours(Some(key)),
            // The reservation may be our own: the answer to the first request may have been lost.
            Ok(Put::Refused) => match self.bucket.get(&key).await {
                Ok(Some(object)) if object.body == self.contents.as_bytes() => Reserved::Ours(Some(key)),
                _ => Reserved::Theirs(key),
            },
            Err(error) => {
                if error.retry() != Retry::Transient {
                    self.on.store(false, Ordering::Relaxed);
                }
                Reserved::Ours(None)
            }
        }
    }

    /// Deletes a reservation of ours.
    pub async fn give_back(&self, reserved: Reserved) {
        if let Reserved::Ours(Some(key)) = reserved {
            // A reservation that stays delays other writers a little.
            let _ = self.bucket.delete(&key).await;
        }
    }
}

/// The wait for another writer.
#[derive(Debug)]
pub struct Patience {
    until: Instant,
    pauses: u32,
}

impl Patience {
    /// The wait for a NAR of this size, which begins now.
    pub fn new(nar_size: u64) -> Self {
        let size = Duration::from_secs_f64(nar_size as f64 / BYTES_PER_SECOND as f64);
        Self { until: Instant::now() + PATIENCE + size, pauses: 0 }
    }

    /// Takes over the reservation of another writer when the wait is over.
    ///
    /// # Errors
    /// [`Waiting`] while the wait goes on.
    pub fn accept(&self, reserved: Reserved) -> Result<Reserved, Waiting> {
        match reserved {
            Reserved::Theirs(_) if Instant::now() < self.until => Err(Waiting),
            Reserved::Theirs(key) => Ok(Reserved::Ours(Some(key))),
            ours => Ok(ours),
        }
    }

    /// Pauses, longer each time.
    pub async fn pause(&mut self) {
        self.pauses += 1;
        tokio::time::sleep(PAUSES.wait(self.pauses)).await;
    }
}

/// Another writer has the reservation, and the wait goes on.
#[derive(Debug)]
pub struct Waiting;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::memory::MemoryBucket;

    #[tokio::test]
    async fn one_of_two_writers_has_a_reservation_until_it_is_given_back() {
        let bucket: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
        let [one, other] = ["a", "b"].map(|lease| Reservations::new(bucket.clone(), lease, true));
        let first = one.take(&[7; 32]).await;
        assert!(matches!(first, Reserved::Ours(Some(_))), "{first:?}");
        assert!(matches!(other.take(&[7; 32]).await, Reserved::Theirs(_)));
        assert!(matches!(other.take(&[8; 32]).await, Reserved::Ours(_)));
        // A writer recognises its own reservation, in case the answer to its first request was lost.
        assert!(matches!(one.take(&[7; 32]).await, Reserved::Ours(Some(_))));
        // A writer does not delete the reservation of another writer.
        other.give_back(Reserved::Theirs(object_keys::reservation(&[7; 32]))).await;
        assert!(matches!(other.take(&[7; 32]).await, Reserved::Theirs(_)));
        one.give_back(first).await;
        assert!(matches!(other.take(&[7; 32]).await, Reserved::Ours(Some(_))));
    }

    #[tokio::test]
    async fn no_reservation_is_made_where_conditions_are_ignored() {
        let bucket: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
        let reservations = Reservations::new(bucket.clone(), "a", false);
        assert!(matches!(reservations.take(&[7; 32]).await, Reserved::Ours(None)));
        assert!(bucket.get(&object_keys::reservation(&[7; 32])).await.unwrap().is_none());
    }

    #[test]
    fn a_writer_takes_over_a_reservation_when_the_wait_is_over() {
        let theirs = || Reserved::Theirs("key".into());
        let begun = Instant::now();
        let mut patience = Patience::new(64 << 20);
        assert!(patience.accept(theirs()).is_err());
        assert!(patience.until > begun + Duration::from_millis(4500));
        patience.until = Instant::now();
        assert!(matches!(patience.accept(theirs()), Ok(Reserved::Ours(Some(_)))));
        assert!(matches!(patience.accept(Reserved::Ours(None)), Ok(Reserved::Ours(None))));
    }
}
