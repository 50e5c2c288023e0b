//! Waiting times after failures.

use std::time::Duration;

use rand_core::{OsRng, RngCore};

/// Waits that double from failure to failure up to a limit, with a random part so that many machines do not come back
/// at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The limit of the doubled wait.
    pub longest: Duration,
    /// The random part.
    pub jitter: Jitter,
}

/// The random part of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// The wait is drawn evenly between nothing and the doubled wait.
    Full,
    /// The wait is drawn evenly between half the doubled wait and the doubled wait.
    Half,
    /// The doubled wait, at most a fifth more or less.
    Fifth,
}

impl Backoff {
    /// The wait after the `failures`th failure in a row, counted from 1.
    pub fn wait(&self, failures: u32) -> Duration {
        self.wait_with(failures, random_share())
    }

    /// Like [`wait`](Self::wait), with a given random share between 0 and 1.
    pub fn wait_with(&self, failures: u32, share: f64) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let doubled = self.first.saturating_mul(factor).min(self.longest);
        doubled.mul_f64(match self.jitter {
            Jitter::Full => share,
            Jitter::Half => 0.5 + share / 2.0,
            Jitter::Fifth => 0.8 + 0.4 * share,
        })
    }
}

/// A random number between 0 and 1.
pub fn random_share() -> f64 {
    f64::from(OsRng.next_u32()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(first: u64, longest: u64, jitter: Jitter) -> Backoff {
        Backoff { first: Duration::from_secs(first), longest: Duration::from_secs(longest), jitter }
    }

    #[test]
    fn waits_double_and_stay_bounded() {
        let backoff = seconds(5, 300, Jitter::Fifth);
        for (failures, least, most) in
            [(1, 4, 6), (3, 16, 24), (10, 240, 360), (32, 240, 360), (u32::MAX, 240, 360)]
        {
            let wait = backoff.wait(failures);
            assert!(
                wait >= Duration::from_secs(least) && wait <= Duration::from_secs(most),
                "{failures}: {wait:?}"
            );
        }
    }

    #[test]
    fn the_random_share_decides_within_the_bounds() {
        for (jitter, least, most) in
            [(Jitter::Full, 0, 4000), (Jitter::Half, 2000, 4000), (Jitter::Fifth, 3200, 4800)]
        {
            let wait = |share| seconds(1, 20, jitter).wait_with(3, share).as_millis();
            assert_eq!((wait(0.0), wait(1.0)), (least, most), "{jitter:?}");
        }
    }

    #[test]
    fn full_jitter_stays_below_the_doubled_wait() {
        let backoff = seconds(1, 20, Jitter::Full);
        for failures in [1, 2, 5, 40] {
            assert!(backoff.wait(failures) <= Duration::from_secs(20));
        }
        assert!(backoff.wait(1) <= Duration::from_secs(1));
    }
}
