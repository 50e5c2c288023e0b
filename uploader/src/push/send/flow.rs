//! How many small requests are on their way at the same time: as many as the way is long.
//!
//! A server that is near has its processors full with few; more only wait there, each on a connection of its own. One
//! that is far away needs many to be kept busy. What tells the two apart is the shortest time that a request ever took:
//! the way there and back, with nothing to wait for.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::base::lock::lock;
use tokio::sync::{Semaphore, SemaphorePermit};

/// As many as there always may be.
const LEAST: usize = 16;
/// As many as there ever are; a server has other clients, too.
const MOST: usize = 128;
/// About how long a server works on a small request, on all its processors together.
const WORK: Duration = Duration::from_micros(500);
/// So many requests have to end before the shortest of them tells something.
const SAMPLE: u32 = 24;

/// Hands out turns for small requests.
#[derive(Debug)]
pub(crate) struct Flow {
    turns: Semaphore,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    requests: u32,
    shortest: Duration,
    width: usize,
}

impl Flow {
    /// As wide as any server takes.
    pub(crate) fn new() -> Self {
        let seen = Seen { requests: 0, shortest: Duration::MAX, width: LEAST };
        Self { turns: Semaphore::new(LEAST), seen: Mutex::new(seen) }
    }

    /// Waits for a turn, which lasts until it is dropped.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        // The semaphore is never closed.
        let permit = self.turns.acquire().await.ok();
        Turn { flow: self, begun: Instant::now(), _permit: permit }
    }

    fn took(&self, time: Duration) {
        let mut seen = lock(&self.seen);
        seen.requests = seen.requests.saturating_add(1);
        seen.shortest = seen.shortest.min(time);
        if seen.requests >= SAMPLE {
            let width = width(seen.shortest);
            if width > seen.width {
                self.turns.add_permits(width - seen.width);
                seen.width = width;
            }
        }
    }
}

/// How many requests keep a server busy that needs `shortest` for the way.
fn width(shortest: Duration) -> usize {
    let many = shortest.as_micros() / WORK.as_micros();
    usize::try_from(many).unwrap_or(MOST).clamp(LEAST, MOST)
}

/// Leave to send a small request, and to read what it needs.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    flow: &'a Flow,
    begun: Instant,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Turn<'_> {
    /// Ends the turn, in which a request was sent and answered. One that is merely dropped tells nothing of the way: it
    /// may have needed no request.
    pub(crate) fn answered(self) {
        self.flow.took(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_way_takes_more() {
        let millis = |millis| width(Duration::from_millis(millis));
        assert_eq!([0, 2, 8, 20, 50, 500].map(millis), [LEAST, LEAST, 16, 40, 100, MOST]);
        assert_eq!(width(Duration::MAX), MOST);
    }

    #[test]
    fn it_widens_once_the_way_is_known_and_stays() {
        let flow = Flow::new();
        for _ in 1..SAMPLE {
            flow.took(Duration::from_millis(50));
        }
        assert_eq!(flow.turns.available_permits(), LEAST);
        flow.took(Duration::from_millis(60));
        assert_eq!(flow.turns.available_permits(), 100);
        flow.took(Duration::from_millis(1));
        assert_eq!(flow.turns.available_permits(), 100);
    }

    #[test]
    fn one_short_way_shows_that_the_server_is_near() {
        let flow = Flow::new();
        flow.took(Duration::from_millis(2));
        (0..2 * SAMPLE).for_each(|_| flow.took(Duration::from_millis(80)));
        assert_eq!(flow.turns.available_permits(), LEAST);
    }

    #[tokio::test]
    async fn a_turn_lasts_until_it_is_dropped() {
        let flow = Flow::new();
        let turn = flow.turn().await;
        assert_eq!(flow.turns.available_permits(), LEAST - 1);
        turn.answered();
        assert_eq!((flow.turns.available_permits(), flow.seen.lock().unwrap().requests), (LEAST, 1));
        drop(flow.turn().await);
        assert_eq!((flow.turns.available_permits(), flow.seen.lock().unwrap().requests), (LEAST, 1));
    }
}
