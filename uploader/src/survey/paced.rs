//! A bucket that is only read, at a bounded rate.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::bucket::{
    AnonymousRead, Body, Bucket, Condition, ContentType, Cursor, Depth, Fence, ListPage, Multipart, Object,
    ObjectMeta, Put,
};

/// A bucket whose requests have a least distance in time. Writes are refused.
#[derive(Debug)]
pub struct PacedReader {
    bucket: Arc<dyn Bucket>,
    pace: Pace,
}

impl PacedReader {
    /// Reads `bucket` with at most `rate` requests a second; at least one.
    pub fn new(bucket: Arc<dyn Bucket>, rate: u32) -> Self {
        let distance = Duration::from_secs(1) / rate.max(1);
        Self { bucket, pace: Pace { distance, next: Mutex::default() } }
    }

    /// The bucket, when it is the turn of the caller.
    async fn turn(&self) -> &dyn Bucket {
        tokio::time::sleep_until(self.pace.turn(Instant::now()).into()).await;
        &*self.bucket
    }

    fn refuse<T>(&self) -> Result<T> {
        let what = format!("cannot write into `{}`", self.bucket.address());
        Err(Error::permanent(Area::General, what).because("it is only read here"))
    }
}

/// The turns of requests.
#[derive(Debug)]
struct Pace {
    /// The least time between two turns.
    distance: Duration,
    /// When the next turn is; `None` before the first.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// The time of the next turn, for a caller who asks at the time `now`. Unused time is lost, so that no burst follows a
    /// pause.
    fn turn(&self, now: Instant) -> Instant {
        let mut next = lock(&self.next);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.distance);
        turn
    }
}

#[async_trait]
impl Bucket for PacedReader {
    fn address(&self) -> String {
        self.bucket.address()
    }

    async fn get(&self, key: &str) -> Result<Option<Object>> {
        self.turn().await.get(key).await
    }

    async fn get_part(&self, key: &str, from: u64, length: u64) -> Result<Option<Bytes>> {
        self.turn().await.get_part(key, from, length).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        self.turn().await.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage> {
        self.turn().await.list(prefix, after, depth).await
    }

    async fn exists(&self) -> Result<bool> {
        self.turn().await.exists().await
    }

    fn public_url(&self) -> String {
        self.bucket.public_url()
    }

    async fn put(&self, _: &str, _: Body, _: ContentType, _: Condition) -> Result<Put> {
        self.refuse()
    }

    async fn delete(&self, _: &str) -> Result<()> {
        self.refuse()
    }

    fn fenced(self: Arc<Self>, _: Arc<dyn Fence>) -> Arc<dyn Bucket> {
        self
    }

    async fn start_multipart(&self, _: &str, _: ContentType) -> Result<Box<dyn Multipart>> {
        self.refuse()
    }

    async fn create(&self) -> Result<()> {
        self.refuse()
    }

    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        self.refuse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::memory::MemoryBucket;

    #[test]
    fn turns_keep_their_distance_and_a_pause_gives_no_burst() {
        let bucket = Arc::new(MemoryBucket::default());
        let pace = PacedReader::new(bucket, 50).pace;
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        // Several ask at once.
        assert_eq!([0; 3].map(|ms| pace.turn(after(ms))), [0, 20, 40].map(after));
        // After a pause, the first goes at once, and the others wait again.
        assert_eq!(
            [1000, 1001, 1030, 1100].map(|ms| pace.turn(after(ms))),
            [1000, 1020, 1040, 1100].map(after)
        );
    }

    #[tokio::test]
    async fn a_reader_reads_and_does_not_write() {
        let bucket = Arc::new(MemoryBucket::default());
        let put = |bucket: Arc<dyn Bucket>| async move {
            bucket.put("key", Body::from("text"), ContentType::Text, Condition::None).await
        };
        put(bucket.clone()).await.unwrap();
        let reader = Arc::new(PacedReader::new(bucket.clone(), 1000));
        assert_eq!(reader.get("key").await.unwrap().unwrap().body, "text");
        assert!(put(reader.clone()).await.is_err() && reader.delete("key").await.is_err());
        assert!(bucket.get("key").await.unwrap().is_some());
    }
}
