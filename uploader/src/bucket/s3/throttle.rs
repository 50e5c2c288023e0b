//! Sends fewer requests to a server that asks for fewer.
//!
//! Nothing is limited until a server answers `SlowDown`, 429 or 503. Then no request begins during a pause, which doubles
//! from refusal to refusal. After the pause, half as many requests as before may be in flight. Each round of answers allows
//! one more request, and the limit ends at twice the number of requests that were in flight at first. A refusal of a
//! request that began before the last refusal was heard says nothing new. A server that goes on refusing gets one request
//! after each pause. The requests that wait in the meantime fail, and the callers try again later.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::base::backoff::{Backoff, Jitter, random_share};
use crate::base::lock::lock;

/// The longest pause, even if the server asks for a longer one.
const LONGEST: Duration = Duration::from_secs(20);
/// The pauses after refusals in a row.
const PAUSES: Backoff = Backoff { first: Duration::from_millis(250), longest: LONGEST, jitter: Jitter::Half };
/// The number of refusals in a row, about eight seconds, after which waiting requests are given up.
const PATIENCE: u32 = 5;
/// The time after which a waiting request looks again, even without a notification.
const LOOK: Duration = Duration::from_secs(1);

/// Limits the requests to one server.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
    slowed: Option<Slowed>,
}

/// The limits of a server that asks for fewer requests.
#[derive(Debug)]
struct Slowed {
    /// The number of requests that may be in flight.
    limit: usize,
    /// The number of requests that were in flight at the first refusal.
    before: usize,
    /// The number of answers since the limit last changed.
    answers: usize,
    /// The number of refusals in a row.
    refusals: u32,
    /// When the last refusal was heard.
    heard: Instant,
    /// The end of the pause.
    until: Instant,
}

/// The right to have one request in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    throttle: &'a Throttle,
    begun: Instant,
}

/// The server goes on asking for fewer requests, and the request is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GivenUp;

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Begin,
    At(Instant),
    WhenFreed,
    GiveUp,
}

impl Throttle {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits until a request may be sent. Fails if the server goes on refusing requests.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, GivenUp> {
        loop {
            let next = self.lock().next(Instant::now());
            match next {
                Next::Begin => return Ok(Turn { throttle: self, begun: Instant::now() }),
                Next::GiveUp => return Err(GivenUp),
                Next::At(until) => tokio::time::sleep_until(until.into()).await,
                Next::WhenFreed => {
                    let _ = tokio::time::timeout(LOOK, self.freed.notified()).await;
                }
            }
        }
    }

    /// Waits until a request may be sent, however long the server goes on refusing requests.
    pub(super) async fn turn_in_any_case(&self) -> Turn<'_> {
        loop {
            match self.turn().await {
                Ok(turn) => return turn,
                Err(GivenUp) => {
                    let _ = tokio::time::timeout(LOOK, self.freed.notified()).await;
                }
            }
        }
    }
}

impl State {
    fn next(&mut self, now: Instant) -> Next {
        match &self.slowed {
            Some(slowed) if slowed.refusals >= PATIENCE && (now < slowed.until || self.in_flight > 0) => {
                Next::GiveUp
            }
            Some(slowed) if now < slowed.until => Next::At(slowed.until),
            Some(slowed) if self.in_flight >= slowed.limit => Next::WhenFreed,
            _ => {
                self.in_flight += 1;
                Next::Begin
            }
        }
    }

    fn refused(&mut self, begun: Instant, now: Instant, asked: Option<Duration>, share: f64) {
        let in_flight = self.in_flight;
        let slowed = self.slowed.get_or_insert(Slowed {
            limit: in_flight,
            before: in_flight,
            answers: 0,
            refusals: 0,
            heard: begun,
            until: now,
        });
        if slowed.refusals > 0 && begun <= slowed.heard {
            return;
        }
        slowed.limit = (slowed.limit.min(in_flight) / 2).max(1);
        slowed.answers = 0;
        slowed.heard = now;
        slowed.refusals += 1;
        let pause = PAUSES.wait_with(slowed.refusals, share);
        slowed.until = now + asked.map_or(pause, |asked| asked.max(pause)).min(LONGEST);
    }

    fn answered(&mut self, begun: Instant) {
        let Some(slowed) = &mut self.slowed else { return };
        if slowed.refusals > 0 && begun <= slowed.heard {
            return;
        }
        slowed.refusals = 0;
        slowed.answers += 1;
        if slowed.answers >= slowed.limit {
            (slowed.answers, slowed.limit) = (0, slowed.limit + 1);
        }
        if slowed.limit > 2 * slowed.before {
            self.slowed = None;
        }
    }
}

impl Turn<'_> {
    /// Ends the request: the server asks for fewer requests, and may have `asked` for a pause.
    pub(super) fn refused(self, asked: Option<Duration>) {
        self.throttle.lock().refused(self.begun, Instant::now(), asked, random_share());
    }

    /// Ends the request: the server answered it.
    pub(super) fn answered(self) {
        self.throttle.lock().answered(self.begun);
        // The limit may have grown: a second waiting request may begin.
        self.throttle.freed.notify_one();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.throttle.lock().in_flight -= 1;
        self.throttle.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// The clients of a server, with their own clock.
    struct World {
        state: State,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { state: State::default(), now: Instant::now() }
        }

        /// Begins a request as soon as the throttle allows it, and returns the time.
        fn begin(&mut self) -> Instant {
            match self.state.next(self.now) {
                Next::Begin => self.now,
                Next::At(until) => {
                    self.now = until;
                    self.begin()
                }
                other => panic!("{other:?}"),
            }
        }

        fn limit(&self) -> Option<usize> {
            self.state.slowed.as_ref().map(|slowed| slowed.limit)
        }

        /// Sends `count` concurrent requests, which all end in the same way.
        fn round(&mut self, count: usize, refused: bool) {
            let round: Vec<_> = (0..count).map(|_| self.begin()).collect();
            self.now += MOMENT;
            for begun in round {
                match refused {
                    true => self.state.refused(begun, self.now, None, 1.0),
                    false => self.state.answered(begun),
                }
                self.state.in_flight -= 1;
            }
        }
    }

    #[test]
    fn nothing_is_limited_without_a_refusal() {
        let mut world = World::new();
        world.round(1000, false);
        assert_eq!((world.limit(), world.state.in_flight), (None, 0));
    }

    #[test]
    fn refusals_of_one_round_halve_once_and_those_of_the_next_again() {
        let mut world = World::new();
        for expected in [8, 4, 2, 1] {
            let count = world.limit().unwrap_or(16);
            world.round(count, true);
            assert_eq!(world.limit(), Some(expected));
            assert!(matches!(world.state.next(world.now), Next::At(_)));
        }
    }

    #[test]
    fn the_limit_bounds_the_requests_in_flight() {
        let mut world = World::new();
        world.round(8, true);
        for _ in 0..4 {
            world.begin();
        }
        assert_eq!(world.state.next(world.now), Next::WhenFreed);
    }

    #[test]
    fn pauses_double_and_the_server_may_ask_for_longer_ones() {
        let mut world = World::new();
        for pause in [250, 500, 1000, 2000] {
            world.round(1, true);
            let refused = world.now;
            assert_eq!((world.begin() - refused).as_millis(), pause);
            world.state.in_flight -= 1;
        }
        let mut world = World::new();
        for (asked, pause) in [(3, 3), (3600, 20)] {
            let begun = world.begin();
            world.state.refused(begun, world.now, Some(Duration::from_secs(asked)), 0.0);
            world.state.in_flight -= 1;
            let refused = world.now;
            assert_eq!((world.begin() - refused).as_secs(), pause);
            world.now += MOMENT;
            world.state.in_flight -= 1;
        }
    }

    #[test]
    fn the_limit_grows_by_one_each_round_and_ends() {
        let mut world = World::new();
        world.round(4, true);
        for expected in [Some(3), Some(4), Some(5), Some(6), Some(7), Some(8), None] {
            let count = world.limit().unwrap();
            world.round(count, false);
            assert_eq!(world.limit(), expected);
        }
    }

    #[test]
    fn a_server_that_goes_on_refusing_gets_one_request_after_each_pause() {
        let mut world = World::new();
        (0..PATIENCE).for_each(|_| world.round(1, true));
        assert_eq!(world.state.next(world.now), Next::GiveUp);
        world.now += LONGEST;
        let probe = world.begin();
        assert_eq!(world.state.next(world.now), Next::GiveUp, "one at a time");
        world.state.answered(probe);
        world.state.in_flight -= 1;
        assert_eq!(world.state.next(world.now), Next::Begin);
    }

    #[tokio::test]
    async fn a_waiting_request_gets_the_turn_that_another_gives_back() {
        let throttle = Throttle::default();
        throttle.turn().await.unwrap().refused(None);
        let only = throttle.turn().await.unwrap();
        let mut waits = std::pin::pin!(throttle.turn());
        assert!(futures::poll!(&mut waits).is_pending());
        drop(only);
        assert!(matches!(futures::poll!(&mut waits), std::task::Poll::Ready(Ok(_))), "it was not notified");
    }
}
