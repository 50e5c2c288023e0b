//! The times of the protocol.

use std::time::Duration;

const fn minutes(number: u64) -> Duration {
    Duration::from_secs(number * 60)
}

/// The times of the protocol. Every process that uses a bucket has the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time between two renewals of a lease, and between two looks at the collections.
    pub renewal: Duration,
    /// A session is over this long after it SENT its last successful renewal, and this long after it SENT its last
    /// successful look at the collections.
    pub lease: Duration,
    /// The time for which the server accepts a signature after it was made, by the clock of the process that signed.
    pub signature: Duration,
    /// The largest difference between the clocks of a process and of the server. A process that finds a larger one in the
    /// server's answers writes nothing.
    pub skew: Duration,
    /// The longest time from the server's acceptance of a small request until it has been carried out.
    pub body: Duration,
    /// What is added to be safe against clocks that run at different speeds.
    pub margin: Duration,
    /// A fact about the bucket is used for this long.
    pub fact: Duration,
}

impl Limits {
    /// The times of production.
    pub const PRODUCTION: Self = Self {
        renewal: minutes(5),
        lease: minutes(20),
        signature: minutes(15),
        skew: minutes(5),
        body: minutes(5),
        margin: minutes(5),
        fact: minutes(30),
    };

    /// All times divided by `divisor`, for tests: the ratios stay.
    #[must_use]
    pub fn scaled(self, divisor: u32) -> Self {
        let divisor = divisor.max(1);
        Self {
            renewal: self.renewal / divisor,
            lease: self.lease / divisor,
            signature: self.signature / divisor,
            skew: self.skew / divisor,
            body: self.body / divisor,
            margin: self.margin / divisor,
            fact: self.fact / divisor,
        }
    }

    /// `E`: a request that was signed this long ago has been carried out, or never will be.
    pub fn settled(&self) -> Duration {
        self.signature + self.skew + self.body
    }

    /// `L`: a lease that has been seen unchanged for this long belongs to a process that changes nothing any more.
    pub fn dead(&self) -> Duration {
        self.lease + self.settled() + self.margin
    }

    /// Whether a lease still holds for its own process. `renewal_sent` is the time since its last successful renewal was
    /// sent, `look_sent` the time since its last successful look at the collections was sent.
    pub fn holds(&self, renewal_sent: Duration, look_sent: Duration) -> bool {
        renewal_sent < self.lease && look_sent < self.lease
    }

    /// The longest time for which a writer waits for a condemned path, if one collector stays alive and each of its
    /// requests, which `work` adds up, succeeds: the writers learn of two stages, or die meanwhile; the deletions; the
    /// quarantine; and the next look.
    pub fn longest_wait(&self, work: Duration) -> Duration {
        let stage = self.dead() + self.renewal;
        stage * 2 + work + self.settled() + self.renewal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_lease_has_run_out_and_its_requests_are_settled() {
        for limits in [Limits::PRODUCTION, Limits::PRODUCTION.scaled(600)] {
            assert!(limits.dead() > limits.lease + limits.settled());
            assert!(limits.renewal * 2 < limits.lease);
            assert!(
                !limits.holds(limits.lease, Duration::ZERO) && !limits.holds(Duration::ZERO, limits.lease)
            );
            assert!(limits.holds(limits.renewal, limits.renewal));
        }
    }

    #[test]
    fn the_ratios_stay() {
        let (long, short) = (Limits::PRODUCTION, Limits::PRODUCTION.scaled(60));
        assert_eq!(long.dead(), short.dead() * 60);
        assert_eq!(long.settled(), short.settled() * 60);
    }
}
