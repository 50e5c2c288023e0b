//! Who is alive, and which collector may act.

use std::time::Duration;

use super::limits::Limits;
use super::rules::{Rule, Rules};

/// The lease of this process. All times are by its own monotonic clock, which continues while the machine is suspended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenure {
    attempts: u64,
    /// When the first attempt was signed.
    begun: Option<Duration>,
    /// When the last successful renewal was sent, and the last successful look at the collections.
    renewed: Option<Duration>,
    looked: Option<Duration>,
    rules: Rules,
}

impl Tenure {
    /// A lease that has not been written.
    pub fn new(rules: Rules) -> Self {
        Self { attempts: 0, begun: None, renewed: None, looked: None, rules }
    }

    /// The counter for the next attempt to write the lease, which is signed at the time `now`.
    pub fn attempt(&mut self, now: Duration) -> u64 {
        self.begun.get_or_insert(now);
        if self.rules.has(Rule::CountAttempts) {
            self.attempts += 1;
        }
        self.attempts
    }

    /// Records that an attempt has succeeded. `sent` is when it was sent, `now` when the answer came.
    pub fn renewed(&mut self, sent: Duration, now: Duration, limits: &Limits) {
        let sent = if self.rules.has(Rule::CountFromSending) { sent } else { now };
        if self.goes_on(now, limits) && !self.look_overdue(now, limits) {
            self.renewed = Some(sent);
        }
    }

    /// Records that a look at the collections has succeeded. `sent` is when its first question was sent.
    pub fn looked(&mut self, sent: Duration, now: Duration, limits: &Limits) {
        let sent = if self.rules.has(Rule::CountFromSending) { sent } else { now };
        if self.goes_on(now, limits) && !self.look_overdue(now, limits) {
            self.looked = Some(sent);
        }
    }

    fn look_overdue(&self, now: Duration, limits: &Limits) -> bool {
        let looked =
            self.looked.filter(|_| self.rules.has(Rule::LookOrEnd) && self.rules.has(Rule::EndForGood));
        looked.is_some_and(|looked| now.saturating_sub(looked) >= limits.lease)
    }

    /// A lease whose first attempts have all failed for too long does not begin: one of them may be in the bucket, and an
    /// observer may count it as dead. The process takes a new id.
    fn goes_on(&self, now: Duration, limits: &Limits) -> bool {
        let since = self.renewed.or(self.begun).unwrap_or(now);
        now.saturating_sub(since) < limits.lease || !self.rules.has(Rule::EndForGood)
    }

    /// Whether the session is over for good, so that a new one with a new id may begin.
    pub fn is_over(&self, now: Duration, limits: &Limits) -> bool {
        !self.goes_on(now, limits) || (self.renewed.is_some() && !self.holds(now, limits))
    }

    /// Whether the lease holds at the time `now`. It does not before its first writing has succeeded.
    pub fn holds(&self, now: Duration, limits: &Limits) -> bool {
        let Some(renewed) = self.renewed else { return false };
        let looked = self.looked.filter(|_| self.rules.has(Rule::LookOrEnd)).unwrap_or(renewed);
        limits.holds(now.saturating_sub(renewed), now.saturating_sub(looked))
    }
}

/// Whether a process may still change the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// It may.
    Living,
    /// Nothing that it has sent can be carried out any more, and it sends nothing.
    Dead,
}

/// The observation of one lease of another process. Only the observer's own monotonic clock counts.
///
/// A lease has a counter that no two of its renewals share, also those whose answers were lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Watch<C> {
    seen: Option<(C, Duration)>,
    rules: Rules,
}

impl<C: PartialEq> Watch<C> {
    /// A lease that has not been seen.
    pub fn new(rules: Rules) -> Self {
        Self { seen: None, rules }
    }

    /// Records that the lease was read with `counter` in it. `asked` is when the question was sent, `answered` when the
    /// answer came.
    pub fn sight(&mut self, counter: C, asked: Duration, answered: Duration, limits: &Limits) -> Life {
        let since = match &self.seen {
            Some((before, since)) if *before == counter => *since,
            _ => {
                self.seen = Some((counter, answered));
                answered
            }
        };
        let unchanged = asked.saturating_sub(since);
        let wanted = match (self.rules.has(Rule::TwoSights), self.rules.has(Rule::CountLateRequests)) {
            (true, true) => limits.dead(),
            (true, false) => limits.lease + limits.margin,
            (false, _) => Duration::ZERO,
        };
        if unchanged >= wanted { Life::Dead } else { Life::Living }
    }
}

/// What a process with a lease is. Its lease says so from the first writing on, and never says anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It writes: it pushes, signs, repairs, promotes, undoes.
    Writer,
    /// It deletes.
    Collector,
}

/// What a collector may do, once its lease is in the bucket and it has listed the leases after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// It may act: no other collector does until its lease has gone.
    Act,
    /// It lists again later. The others give way, or are dead.
    Wait,
    /// It removes its lease and begins again later, with a new id.
    GiveWay,
}

/// Decides whether the collector `own` may act. `others` are the other leases of collectors in the bucket.
///
/// Of two collectors, the one that listed later sees the other. So at most one acts. If they see each other, the one with
/// the smaller id waits for the other to give way.
pub fn claim<'a, I: Ord + 'a>(
    own: &I,
    others: impl IntoIterator<Item = (&'a I, Life)>,
    rules: Rules,
) -> Claim {
    if !rules.has(Rule::ClaimAlone) {
        return Claim::Act;
    }
    let alive = |life: Life| life == Life::Living;
    let mut living = others.into_iter().filter(|(_, life)| alive(*life)).map(|(id, _)| id).peekable();
    if living.peek().is_none() {
        Claim::Act
    } else if living.any(|other| other < own) || !rules.has(Rule::OneGivesWay) {
        Claim::GiveWay
    } else {
        Claim::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits::PRODUCTION;

    #[test]
    fn a_lease_is_dead_when_it_is_unchanged_for_long_enough() {
        let mut watch = Watch::new(Rules::ALL);
        let start = Duration::from_secs(77);
        assert_eq!(watch.sight(1, Duration::ZERO, start, &LIMITS), Life::Living);
        let almost = start + LIMITS.dead() - Duration::from_secs(1);
        assert_eq!(watch.sight(1, almost, start + LIMITS.dead() * 2, &LIMITS), Life::Living);
        assert_eq!(watch.sight(1, start + LIMITS.dead(), start + LIMITS.dead(), &LIMITS), Life::Dead);
    }

    #[test]
    fn a_renewed_lease_is_watched_from_the_start() {
        let mut watch = Watch::new(Rules::ALL);
        watch.sight(1, Duration::ZERO, Duration::ZERO, &LIMITS);
        let late = LIMITS.dead() * 3;
        assert_eq!(watch.sight(2, late, late, &LIMITS), Life::Living);
        assert_eq!(watch.sight(1, late, late, &LIMITS), Life::Living);
        assert_eq!(watch.sight(1, late + LIMITS.dead(), late + LIMITS.dead(), &LIMITS), Life::Dead);
    }

    #[test]
    fn a_lease_that_has_run_out_does_not_begin_again() {
        let mut tenure = Tenure::new(Rules::ALL);
        assert!(!tenure.holds(Duration::ZERO, &LIMITS));
        assert!(tenure.attempt(Duration::ZERO) != tenure.attempt(Duration::ZERO));
        tenure.renewed(Duration::ZERO, LIMITS.renewal, &LIMITS);
        assert!(tenure.holds(LIMITS.lease - Duration::from_secs(1), &LIMITS));
        tenure.looked(LIMITS.renewal, LIMITS.renewal, &LIMITS);
        tenure.renewed(LIMITS.renewal * 2, LIMITS.renewal * 2, &LIMITS);
        assert!(!tenure.holds(LIMITS.lease + LIMITS.renewal, &LIMITS), "it has not looked since");
        tenure.renewed(LIMITS.lease * 2, LIMITS.lease * 2, &LIMITS);
        tenure.looked(LIMITS.lease * 2, LIMITS.lease * 2, &LIMITS);
        assert!(!tenure.holds(LIMITS.lease * 2, &LIMITS) && tenure.is_over(LIMITS.lease * 2, &LIMITS));
    }

    #[test]
    fn a_lease_whose_first_attempts_fail_for_too_long_does_not_begin() {
        let mut tenure = Tenure::new(Rules::ALL);
        tenure.attempt(Duration::ZERO);
        assert!(!tenure.is_over(LIMITS.renewal, &LIMITS));
        tenure.attempt(LIMITS.lease);
        tenure.renewed(LIMITS.lease, LIMITS.lease, &LIMITS);
        assert!(!tenure.holds(LIMITS.lease, &LIMITS) && tenure.is_over(LIMITS.lease, &LIMITS));
    }

    #[test]
    fn at_most_one_collector_acts() {
        let claims = |own: u8, others: &[(u8, Life)]| {
            claim(&own, others.iter().map(|(id, life)| (id, *life)), Rules::ALL)
        };
        assert_eq!(claims(3, &[]), Claim::Act);
        assert_eq!(claims(3, &[(1, Life::Dead)]), Claim::Act);
        assert_eq!(claims(3, &[(1, Life::Dead), (7, Life::Living)]), Claim::Wait);
        assert_eq!(claims(3, &[(7, Life::Living), (1, Life::Living)]), Claim::GiveWay);
    }
}
