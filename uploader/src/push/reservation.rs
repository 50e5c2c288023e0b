//! Reservations of large NARs, so that hosts which push the same at the same time do not all send it.
//!
//! A reservation is an object that is put where none stands, before the NAR is read, and deleted when the NAR is in the
//! bucket. It is a hint and no lock: whoever finds one goes on with something else for a while and then looks again.
//! One whose writer was killed delays others, and keeps nobody from anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bucket::{Bucket, Condition, ContentType, Put};
use crate::cache::keys;
use crate::cache::marker::Reservation as Contents;
use crate::error::Retry;

/// How long another's reservation is waited for, whatever the NAR's size, and how many of its bytes take a second more:
/// about what sending it takes over a fast line. On a slower one, waiting for the other costs no more than that.
const PATIENCE: Duration = Duration::from_secs(3);
const BYTES_PER_SECOND: u64 = 32 << 20;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Makes reservations for a session.
#[derive(Debug)]
pub(super) struct Reservations {
    bucket: Arc<dyn Bucket>,
    contents: String,
    /// Whether they are of use: not where the server takes any write, or lets these not be made.
    on: AtomicBool,
}

/// Whose a NAR is.
#[derive(Debug)]
pub(super) enum Reserved {
    /// Ours, or nobody's: to be sent.
    Ours(Option<String>),
    /// Another writer's.
    Theirs(String),
}

impl Reservations {
    /// For the session with this id.
    pub(super) fn new(bucket: Arc<dyn Bucket>, id: &str, conditional_writes: bool) -> Self {
        let contents = Contents { writer: id.into() }.to_json();
        Self { bucket, contents, on: AtomicBool::new(conditional_writes) }
    }

    /// Reserves a NAR, if nobody else has. What goes wrong here keeps nothing from being sent.
    pub(super) async fn take(&self, nar_hash: &[u8; 32]) -> Reserved {
        if !self.on.load(Ordering::Relaxed) {
            return Reserved::Ours(None);
        }
        let key = keys::reservation(nar_hash);
        let body = self.contents.clone().into();
        match self.bucket.put(&key, body, ContentType::Json, Condition::IfAbsent).await {
            Ok(Put::Written) => Reserved::Ours(Some(key)),
            // It may be our own, the answer to whose request got lost.
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

    /// Gives one back that is not needed any more.
    pub(super) async fn give_back(&self, reserved: Reserved) {
        if let Reserved::Ours(Some(key)) = reserved {
            // One that stays delays others a little.
            let _ = self.bucket.delete(&key).await;
        }
    }
}

/// How long another writer is waited for.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// For a NAR of this size, from now on.
    pub(super) fn new(nar_size: u64) -> Self {
        let size = Duration::from_secs_f64(nar_size as f64 / BYTES_PER_SECOND as f64);
        Self { until: Instant::now() + PATIENCE + size, pause: PAUSE }
    }

    /// Whether one goes on waiting; if not, the NAR is as good as ours, and so is the reservation that was in the way.
    pub(super) fn accept(&self, reserved: Reserved) -> Result<Reserved, Waiting> {
        match reserved {
            Reserved::Theirs(_) if Instant::now() < self.until => Err(Waiting),
            Reserved::Theirs(key) => Ok(Reserved::Ours(Some(key))),
            ours => Ok(ours),
        }
    }

    /// Waits a while, longer each time.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
    }
}

/// Another writer is at it.
#[derive(Debug)]
pub(super) struct Waiting;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::{Options, open};

    async fn bucket(dir: &std::path::Path) -> Arc<dyn Bucket> {
        let bucket = open(&format!("file://{}", dir.display()), &Options::default()).await.unwrap();
        bucket.create().await.unwrap();
        bucket
    }

    #[tokio::test]
    async fn one_of_two_gets_it_until_it_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = bucket(dir.path()).await;
        let [one, other] = ["a", "b"].map(|lease| Reservations::new(bucket.clone(), lease, true));
        let first = one.take(&[7; 32]).await;
        assert!(matches!(first, Reserved::Ours(Some(_))), "{first:?}");
        assert!(matches!(other.take(&[7; 32]).await, Reserved::Theirs(_)));
        assert!(matches!(other.take(&[8; 32]).await, Reserved::Ours(_)));
        // One's own, when the answer to the first request got lost.
        assert!(matches!(one.take(&[7; 32]).await, Reserved::Ours(Some(_))));
        // What is another's is not given back.
        other.give_back(Reserved::Theirs(keys::reservation(&[7; 32]))).await;
        assert!(matches!(other.take(&[7; 32]).await, Reserved::Theirs(_)));
        one.give_back(first).await;
        assert!(matches!(other.take(&[7; 32]).await, Reserved::Ours(Some(_))));
    }

    #[tokio::test]
    async fn where_conditions_are_ignored_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = bucket(dir.path()).await;
        let reservations = Reservations::new(bucket.clone(), "a", false);
        assert!(matches!(reservations.take(&[7; 32]).await, Reserved::Ours(None)));
        assert!(bucket.get(&keys::reservation(&[7; 32])).await.unwrap().is_none());
    }

    #[test]
    fn patience_ends_and_takes_over() {
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
