//! Adapts the number of concurrent small requests to the round-trip time.
//!
//! A few requests keep the processors of a near server busy. More requests only wait there, each on its own connection.
//! A distant server needs many concurrent requests to be busy. The shortest time of a request so far is about the
//! round-trip time, and tells which kind of server it is.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::base::lock::lock;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The smallest limit. It suits every server.
const LEAST: usize = 16;
/// The largest limit: a server has other clients, too.
const MOST: usize = 128;
/// The approximate time that a server with all its processors works on a small request.
const WORK: Duration = Duration::from_micros(500);
/// The number of requests after which the shortest time counts as the round-trip time.
const SAMPLE: u32 = 24;

/// A limit on concurrent small requests.
#[derive(Debug)]
pub struct RequestLimit {
    slots: Semaphore,
    measured: Mutex<Measured>,
}

/// The times of the requests so far, and the limit that follows.
#[derive(Debug)]
struct Measured {
    requests: u32,
    shortest: Duration,
    limit: usize,
}

impl Default for RequestLimit {
    /// A limit without measurements: the smallest limit.
    fn default() -> Self {
        let measured = Measured { requests: 0, shortest: Duration::MAX, limit: LEAST };
        Self { slots: Semaphore::new(LEAST), measured: Mutex::new(measured) }
    }
}

impl RequestLimit {
    /// Waits for a slot, which is taken until it is dropped.
    pub async fn slot(&self) -> RequestSlot<'_> {
        // The semaphore is never closed.
        let permit = self.slots.acquire().await.ok();
        RequestSlot { limit: self, begun: Instant::now(), _permit: permit }
    }

    /// Records the time of a request, and raises the limit when the round-trip time is long.
    fn record(&self, time: Duration) {
        let mut measured = lock(&self.measured);
        measured.requests = measured.requests.saturating_add(1);
        measured.shortest = measured.shortest.min(time);
        if measured.requests >= SAMPLE {
            let limit = limit_for(measured.shortest);
            if limit > measured.limit {
                self.slots.add_permits(limit - measured.limit);
                measured.limit = limit;
            }
        }
    }
}

/// The number of requests that keeps a server busy at the round-trip time `shortest`.
fn limit_for(shortest: Duration) -> usize {
    let many = shortest.as_micros() / WORK.as_micros();
    usize::try_from(many).unwrap_or(MOST).clamp(LEAST, MOST)
}

/// The right to send a small request, and to read the data for it.
#[derive(Debug)]
pub struct RequestSlot<'a> {
    limit: &'a RequestLimit,
    begun: Instant,
    _permit: Option<SemaphorePermit<'a>>,
}

impl RequestSlot<'_> {
    /// Gives the slot back after a request was sent and answered, and records its time. A slot that is dropped without
    /// this call records nothing, because perhaps no request was sent.
    pub fn answered(self) {
        self.limit.record(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_round_trip_allows_more_requests() {
        let millis = |millis| limit_for(Duration::from_millis(millis));
        assert_eq!([0, 2, 8, 20, 50, 500].map(millis), [LEAST, LEAST, 16, 40, 100, MOST]);
        assert_eq!(limit_for(Duration::MAX), MOST);
    }

    #[test]
    fn the_limit_rises_once_and_stays() {
        let limit = RequestLimit::default();
        for _ in 1..SAMPLE {
            limit.record(Duration::from_millis(50));
        }
        assert_eq!(limit.slots.available_permits(), LEAST);
        limit.record(Duration::from_millis(60));
        assert_eq!(limit.slots.available_permits(), 100);
        limit.record(Duration::from_millis(1));
        assert_eq!(limit.slots.available_permits(), 100);
    }

    #[test]
    fn one_short_request_shows_that_the_server_is_near() {
        let limit = RequestLimit::default();
        limit.record(Duration::from_millis(2));
        (0..2 * SAMPLE).for_each(|_| limit.record(Duration::from_millis(80)));
        assert_eq!(limit.slots.available_permits(), LEAST);
    }

    #[tokio::test]
    async fn a_slot_is_taken_until_it_is_dropped() {
        let limit = RequestLimit::default();
        let slot = limit.slot().await;
        assert_eq!(limit.slots.available_permits(), LEAST - 1);
        slot.answered();
        assert_eq!((limit.slots.available_permits(), limit.measured.lock().unwrap().requests), (LEAST, 1));
        drop(limit.slot().await);
        assert_eq!((limit.slots.available_permits(), limit.measured.lock().unwrap().requests), (LEAST, 1));
    }
}
