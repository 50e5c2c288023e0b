//! Decides whether a request is sent to a cache. The caller passes the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::base::lock::lock;

/// How long the relay sends no request to a cache that did not answer. Nix itself waits twice as long.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The health of a cache.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// `None` if the cache could be reached by the last request, otherwise the time of the next request.
    retry_at: Mutex<Option<Instant>>,
    /// Whether the relay has hidden the last answer.
    hides: AtomicBool,
}

impl Health {
    /// Whether a request may be sent to the cache. While the cache is unavailable, this allows one request in each
    /// [`RETRY_INTERVAL`], so that the other requests do not wait.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        let mut retry_at = self.retry_at();
        match *retry_at {
            None => true,
            Some(time) if now < time => false,
            Some(_) => {
                *retry_at = Some(now + RETRY_INTERVAL);
                true
            }
        }
    }

    /// Records that the cache did not answer. Returns whether it answered before.
    pub(super) fn failed(&self, now: Instant) -> bool {
        self.retry_at().replace(now + RETRY_INTERVAL).is_none()
    }

    /// Records that the cache answered. Returns whether it did not answer before.
    pub(super) fn answered(&self) -> bool {
        self.retry_at().take().is_some()
    }

    /// Whether the last request to the cache was answered.
    pub(super) fn is_available(&self) -> bool {
        self.retry_at().is_none()
    }

    /// Records whether the relay hides an answer of the cache. Returns whether it hides this one and not the one before.
    pub(super) fn hides(&self, hides: bool) -> bool {
        !self.hides.swap(hides, Ordering::Relaxed) && hides
    }

    fn retry_at(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.retry_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_each_interval_tests_an_unavailable_cache() {
        let (health, start) = (Health::default(), Instant::now());
        assert!(health.may_ask(start) && health.is_available() && !health.answered());
        assert!(health.failed(start) && !health.failed(start));
        assert!(!health.may_ask(start) && !health.may_ask(start + RETRY_INTERVAL - Duration::from_millis(1)));
        // The interval is over: one request tests the cache, the others do not wait for it.
        assert!(health.may_ask(start + RETRY_INTERVAL));
        assert!(!health.may_ask(start + RETRY_INTERVAL) && !health.is_available());
        assert!(health.may_ask(start + 2 * RETRY_INTERVAL));
        assert!(health.answered() && !health.answered() && health.is_available());
        assert!(health.may_ask(start + 2 * RETRY_INTERVAL));
    }

    #[test]
    fn the_first_of_several_hidden_answers_is_told() {
        let health = Health::default();
        assert!(!health.hides(false) && health.hides(true) && !health.hides(true));
        assert!(!health.hides(false) && health.hides(true) && health.is_available());
    }
}
