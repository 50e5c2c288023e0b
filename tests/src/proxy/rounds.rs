//! Rounds: requests are collected until the client sends no more, and are then let through together.
//!
//! So the size of a round is the number of requests that the client has on their way at the same time, however fast the
//! machine is. Refusals of a round are answered first, while all its other requests are still on their way.

use super::lock;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Collects requests into rounds.
#[derive(Debug)]
pub(super) struct Rounds {
    /// A round is complete when no request has come for this long.
    quiet: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// When the last request came, or refusals were let through.
    last: Instant,
    /// The numbers of the round, and of the group of refusals, that are being collected.
    round: u64,
    refusal: u64,
    refusals_waiting: usize,
    others_waiting: usize,
}

impl Rounds {
    pub(super) fn new(quiet: Duration) -> Self {
        let state =
            State { last: Instant::now(), round: 1, refusal: 1, refusals_waiting: 0, others_waiting: 0 };
        Self { quiet, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until a request is let through; returns the number of its round.
    pub(super) fn wait(&self, is_refused: bool) -> u64 {
        let mut state = lock(&self.state);
        state.last = Instant::now();
        let (round, refusal) = (state.round, state.refusal);
        if is_refused {
            state.refusals_waiting += 1;
        } else {
            state.others_waiting += 1;
        }
        while if is_refused { state.refusal == refusal } else { state.round == round } {
            let left = self.quiet.saturating_sub(state.last.elapsed());
            if left.is_zero() {
                state.let_through();
                self.changed.notify_all();
            } else {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        round
    }
}

impl State {
    /// The client is quiet: lets the refusals through, or where none waits the rest of the round.
    fn let_through(&mut self) {
        if self.refusals_waiting > 0 {
            self.refusal += 1;
            self.refusals_waiting = 0;
            self.last = Instant::now();
            if self.others_waiting > 0 {
                return;
            }
        }
        self.round += 1;
        self.others_waiting = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_let_through_before_the_rest_of_their_round() {
        let mut state =
            State { last: Instant::now(), round: 1, refusal: 1, refusals_waiting: 1, others_waiting: 2 };
        state.let_through();
        assert_eq!((state.refusal, state.round, state.others_waiting), (2, 1, 2));
        state.let_through();
        assert_eq!((state.refusal, state.round, state.others_waiting), (2, 2, 0));
        // A round of refusals alone.
        state.refusals_waiting = 1;
        state.let_through();
        assert_eq!((state.refusal, state.round), (3, 3));
    }

    #[test]
    fn requests_of_one_burst_are_one_round() {
        let rounds = Rounds::new(Duration::from_millis(100));
        assert_eq!((rounds.wait(false), rounds.wait(true), rounds.wait(false)), (1, 2, 3));
        std::thread::scope(|scope| {
            let burst = [(); 3].map(|()| scope.spawn(|| rounds.wait(false)));
            let last = burst.map(|thread| thread.join().unwrap()).into_iter().max();
            // A thread that comes late on a busy machine is in a later round.
            assert!((Some(4)..=Some(6)).contains(&last), "{last:?}");
        });
    }
}
