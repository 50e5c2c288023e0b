//! Whether the agent gets on: since when the queue's thread works on one request, and when the event loop last took a
//! step. The service manager restarts an agent that is stuck.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::base::lock::lock;
use crate::store::DEFAULT_TIMEOUT;

/// A step that takes longer than this is stuck. One request waits for a silent daemon for [`DEFAULT_TIMEOUT`] at most.
const LONGEST_STEP: Duration = DEFAULT_TIMEOUT.saturating_add(Duration::from_secs(200));

/// The times of the latest steps of the event loop and of the queue's thread.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Steps>);

#[derive(Clone, Copy, Debug)]
struct Steps {
    /// When the event loop took its last step.
    event_loop: Instant,
    /// Since when the thread works on its request; `None` without a request.
    busy_since: Option<Instant>,
}

impl Pulse {
    /// Begins now. The thread has no request.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Steps { event_loop: Instant::now(), busy_since: None }))
    }

    /// Takes note that the event loop has taken a step.
    pub(super) fn event_loop_steps(&self) {
        lock(&self.0).event_loop = Instant::now();
    }

    /// Takes note that the thread begins a request.
    pub(super) fn request_begins(&self) {
        lock(&self.0).busy_since = Some(Instant::now());
    }

    /// Takes note that the thread has finished a request.
    pub(super) fn request_ends(&self) {
        lock(&self.0).busy_since = None;
    }

    /// Whether neither the event loop nor the thread is stuck.
    pub(super) fn is_alive(&self) -> bool {
        lock(&self.0).are_alive(Instant::now())
    }
}

impl Steps {
    fn are_alive(&self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) <= LONGEST_STEP;
        is_recent(self.event_loop) && self.busy_since.is_none_or(is_recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_daemon_is_life_and_a_stuck_step_is_not() {
        let begun = Instant::now();
        let alive = |event_loop: u64, busy: Option<u64>| {
            let before = |age| begun + Duration::from_secs(10_000 - age);
            Steps { event_loop: before(event_loop), busy_since: busy.map(before) }.are_alive(before(0))
        };
        // The event loop waits for the thread, and the thread for a silent daemon.
        assert!(alive(DEFAULT_TIMEOUT.as_secs() + 30, Some(DEFAULT_TIMEOUT.as_secs())));
        assert!(alive(30, None));
        assert!(!alive(801, None), "the event loop is stuck");
        assert!(!alive(30, Some(801)), "the thread is stuck");
    }

    #[test]
    fn an_idle_thread_is_not_stuck() {
        let pulse = Pulse::new();
        pulse.request_begins();
        assert!(lock(&pulse.0).busy_since.is_some());
        pulse.request_ends();
        assert!(lock(&pulse.0).busy_since.is_none() && pulse.is_alive());
    }
}
