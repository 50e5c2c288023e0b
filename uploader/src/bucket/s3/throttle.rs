//! Fewer requests for a server that asks for fewer.
//!
//! Nothing is limited until a server answers `SlowDown`, or 429, or 503. Then no request begins for a moment, which
//! doubles from refusal to refusal, and after it half as many may be on their way as there were. Each round of answers
//! lets one more through, until there are twice as many again as before: then the limit is gone. Refusals to requests
//! that were on their way already when the last one was heard say nothing new. A server that goes on refusing gets one
//! request after each pause; those that wait for it meanwhile fail, and whoever wants them comes again later.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::base::lock::lock;
use rand_core::{OsRng, RngCore};
use tokio::sync::Notify;

/// The first pause; it doubles with each refusal in a row.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause, also where the server asks for more.
const LONGEST: Duration = Duration::from_secs(20);
/// After so many refusals in a row, about eight seconds, requests that would have to wait are given up.
const PATIENCE: u32 = 5;
/// Those who wait for a turn look again after this, whatever they were told.
const LOOK: Duration = Duration::from_secs(1);

/// What limits the requests to one server.
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

/// A server that has asked for less.
#[derive(Debug)]
struct Slowed {
    /// So many requests may be on their way.
    limit: usize,
    /// So many were when it first asked.
    before: usize,
    /// Answers since the limit was last changed.
    answers: usize,
    /// Refusals in a row.
    refusals: u32,
    /// When the last one was heard, and until when nothing is sent.
    heard: Instant,
    until: Instant,
}

/// Leave to send a request, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    throttle: &'a Throttle,
    begun: Instant,
}

/// The server has asked for less again and again, and this request is not worth the wait.
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

    /// Waits until a request may be sent.
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
        let pause =
            FIRST.saturating_mul(1 << slowed.refusals.min(10)).min(LONGEST).mul_f64(0.5 + share / 2.0);
        slowed.refusals += 1;
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
    /// The server has asked for less, and perhaps said for how long.
    pub(super) fn refused(self, asked: Option<Duration>) {
        let share = f64::from(OsRng.next_u32()) / f64::from(u32::MAX);
        self.throttle.lock().refused(self.begun, Instant::now(), asked, share);
    }

    /// The server has done what it was asked.
    pub(super) fn answered(self) {
        self.throttle.lock().answered(self.begun);
        // A second one, where the limit has grown.
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

    /// A server's clients, and a clock of their own.
    struct World {
        state: State,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { state: State::default(), now: Instant::now() }
        }

        /// Begins a request as soon as one may begin; when that was.
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

        /// So many requests at once, which all end in the same way.
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
    fn nothing_is_limited_until_somebody_asks() {
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
    fn no_more_than_the_limit_are_on_their_way() {
        let mut world = World::new();
        world.round(8, true);
        for _ in 0..4 {
            world.begin();
        }
        assert_eq!(world.state.next(world.now), Next::WhenFreed);
    }

    #[test]
    fn pauses_double_and_the_server_may_ask_for_more() {
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
    fn it_grows_by_one_each_round_until_the_limit_is_gone() {
        let mut world = World::new();
        world.round(4, true);
        for expected in [Some(3), Some(4), Some(5), Some(6), Some(7), Some(8), None] {
            let count = world.limit().unwrap();
            world.round(count, false);
            assert_eq!(world.limit(), expected);
        }
    }

    #[test]
    fn a_server_that_goes_on_refusing_is_left_alone_but_for_one_request_after_each_pause() {
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
    async fn who_waits_gets_the_turn_that_somebody_gives_back_or_abandons() {
        let throttle = Throttle::default();
        throttle.turn().await.unwrap().refused(None);
        let only = throttle.turn().await.unwrap();
        let mut waits = std::pin::pin!(throttle.turn());
        assert!(futures::poll!(&mut waits).is_pending());
        drop(only);
        assert!(matches!(futures::poll!(&mut waits), std::task::Poll::Ready(Ok(_))), "it was not told");
    }
}
