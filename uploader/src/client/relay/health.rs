//! Whether a cache is asked. No clock of its own.

use crate::base::lock::lock;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a cache that did not answer is left alone. Half of what Nix itself leaves one alone for.
pub(super) const HOLD: Duration = Duration::from_secs(30);

/// What is known of a cache: when it may be asked again, where it did not answer the last time.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Instant>>);

impl Health {
    /// Whether a request may be sent on. While the cache is away that is one request for each [`HOLD`]: the others must
    /// not wait with it.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        let mut until = self.until();
        match *until {
            None => true,
            Some(time) if now < time => false,
            Some(_) => {
                *until = Some(now + HOLD);
                true
            }
        }
    }

    /// It did not answer. Whether that is news.
    pub(super) fn failed(&self, now: Instant) -> bool {
        self.until().replace(now + HOLD).is_none()
    }

    /// It answered. Whether that is news.
    pub(super) fn answered(&self) -> bool {
        self.until().take().is_some()
    }

    /// Whether the last request to it was answered.
    pub(super) fn is_there(&self) -> bool {
        self.until().is_none()
    }

    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_at_a_time_looks_whether_a_cache_is_back() {
        let (health, start) = (Health::default(), Instant::now());
        assert!(health.may_ask(start) && health.is_there() && !health.answered());
        assert!(health.failed(start) && !health.failed(start));
        assert!(!health.may_ask(start) && !health.may_ask(start + HOLD - Duration::from_millis(1)));
        // The hold is over: one looks, the others do not wait for it.
        assert!(health.may_ask(start + HOLD));
        assert!(!health.may_ask(start + HOLD) && !health.is_there());
        assert!(health.may_ask(start + 2 * HOLD));
        assert!(health.answered() && !health.answered() && health.is_there());
        assert!(health.may_ask(start + 2 * HOLD));
    }
}
