//! The requests of a process that change the bucket, and which of them may still be carried out.

use std::time::Duration;

use super::limits::Limits;

/// A request that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Request {
    number: u64,
    /// When it was signed, by the process's own monotonic clock.
    signed: Duration,
    /// Whether the gate has changed since.
    outdated: bool,
}

/// The requests of a process whose answers have not come: each attempt counts by itself. Uploads under new keys, and
/// requests that change nothing, do not belong here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Requests {
    open: Vec<Request>,
    next: u64,
}

impl Requests {
    /// Records that an attempt is signed, at the time `now`. To be called before the lease and the gate are looked at. The
    /// number is for [`Requests::answered`].
    pub fn signed(&mut self, now: Duration) -> u64 {
        self.next += 1;
        self.open.push(Request { number: self.next, signed: now, outdated: false });
        self.next
    }

    /// Records that the server has answered the attempt, or that it was never sent. An attempt that timed out is not
    /// answered.
    pub fn answered(&mut self, number: u64) {
        self.open.retain(|request| request.number != number);
    }

    /// Records that the gate has changed: what is open now was sent by what the process knew before.
    pub fn gate_changed(&mut self) {
        for request in &mut self.open {
            request.outdated = true;
        }
    }

    /// Forgets the attempts that have been carried out, or never will be.
    fn settle(&mut self, now: Duration, limits: &Limits) {
        self.open.retain(|request| now.saturating_sub(request.signed) < limits.settled());
    }

    /// Whether an attempt that was signed before the last change of the gate may still be carried out.
    pub fn outdated_open(&mut self, now: Duration, limits: &Limits) -> bool {
        self.settle(now, limits);
        self.open.iter().any(|request| request.outdated)
    }

    /// Whether any attempt may still be carried out.
    pub fn any_open(&mut self, now: Duration, limits: &Limits) -> bool {
        self.settle(now, limits);
        !self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits::PRODUCTION;

    #[test]
    fn an_attempt_without_an_answer_is_open_until_it_is_settled() {
        let mut requests = Requests::default();
        let now = Duration::from_secs(1000);
        let (first, second) = (requests.signed(now), requests.signed(now));
        requests.answered(second);
        assert!(requests.any_open(now, &LIMITS) && !requests.outdated_open(now, &LIMITS));
        requests.gate_changed();
        assert!(requests.outdated_open(now + LIMITS.settled() - Duration::from_secs(1), &LIMITS));
        assert!(!requests.outdated_open(now + LIMITS.settled(), &LIMITS));
        requests.answered(first);
        assert!(!requests.any_open(now, &LIMITS));
    }

    #[test]
    fn what_is_sent_after_the_change_does_not_delay_the_acknowledgement() {
        let mut requests = Requests::default();
        let before = requests.signed(Duration::ZERO);
        requests.gate_changed();
        requests.signed(Duration::ZERO);
        assert!(requests.outdated_open(Duration::ZERO, &LIMITS));
        requests.answered(before);
        assert!(
            !requests.outdated_open(Duration::ZERO, &LIMITS) && requests.any_open(Duration::ZERO, &LIMITS)
        );
    }
}
