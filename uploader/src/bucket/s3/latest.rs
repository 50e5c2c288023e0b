//! The latest time that the clock of a server can show, by its answers and by a clock that does not jump.

use std::time::{Duration, SystemTime};

/// The coarseness of the date in an answer.
const SECOND: Duration = Duration::from_secs(1);

/// A bound on the clock of a server. Moments are times since the start of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    time: SystemTime,
    moment: Duration,
}

impl Latest {
    /// The bound that an answer with this date gives, of a request that was sent and answered at these moments: the server took the
    /// date after the request was sent. An earlier bound stays where it is closer, unless the server's clock has passed it.
    pub(super) fn learn(known: Option<Self>, date: SystemTime, sent: Duration, answered: Duration) -> Self {
        let time = date + SECOND + answered.saturating_sub(sent);
        let kept = known.map(|known| known.at(answered)).filter(|kept| date <= *kept && *kept < time);
        Self { time: kept.unwrap_or(time), moment: answered }
    }

    /// The bound at a moment.
    pub(super) fn at(&self, moment: Duration) -> SystemTime {
        self.time + moment.saturating_sub(self.moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: SystemTime = SystemTime::UNIX_EPOCH;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_bound_follows_the_moments() {
        let latest = Latest::learn(None, DATE, seconds(10), seconds(12));
        assert_eq!(latest.at(seconds(12)), DATE + seconds(3));
        assert_eq!(latest.at(seconds(112)), DATE + seconds(103));
        // Before the answer: as at the answer.
        assert_eq!(latest.at(seconds(0)), DATE + seconds(3));
    }

    #[test]
    fn an_answer_that_is_read_late_neither_loosens_nor_lowers_the_bound() {
        let first = Latest::learn(None, DATE, seconds(10), seconds(12));
        let late = Latest::learn(Some(first), DATE + seconds(1), seconds(12), seconds(1800));
        assert!(late.at(seconds(1800)) <= first.at(seconds(1800)));
        assert!(late.at(seconds(1800)) >= DATE + seconds(1789));
        let only = Latest::learn(None, DATE, seconds(10), seconds(1800));
        assert!(only.at(seconds(1800)) >= DATE + seconds(1790));
    }

    #[test]
    fn a_clock_of_the_server_that_jumps_is_followed() {
        let first = Latest::learn(None, DATE, seconds(10), seconds(12));
        let ahead = Latest::learn(Some(first), DATE + seconds(3600), seconds(20), seconds(20));
        assert_eq!(ahead.at(seconds(20)), DATE + seconds(3601));
        let behind = Latest::learn(Some(ahead), DATE, seconds(30), seconds(30));
        assert_eq!(behind.at(seconds(30)), DATE + seconds(1));
    }
}
