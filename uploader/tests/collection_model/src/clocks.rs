//! A small model with clocks. It drives the machines for time: one process with a lease and requests, and one observer of
//! the lease.
//!
//! It shows what the large model presupposes: when the observer counts the process as dead, no request of the process can
//! be carried out any more, and none will be sent; and when a process takes its requests to be settled, they are.
//!
//! The unit of time is so chosen that each limit is a small number. One history is followed up to a horizon.

use std::time::Duration;

use larder::protocol::leases::{Life, Tenure, Watch};
use larder::protocol::limits::Limits;
use larder::protocol::requests::Requests;
use larder::protocol::rules::{Rule, Rules};
use stateright::{Model, Property};

/// The limits of this model, in seconds: `E` is 2, a lease holds for 3, and `L` is 5: without a margin, to see
/// that the limits are exact.
pub const LIMITS: Limits = Limits {
    renewal: Duration::from_secs(1),
    lease: Duration::from_secs(3),
    signature: Duration::from_secs(1),
    skew: Duration::ZERO,
    body: Duration::from_secs(1),
    margin: Duration::ZERO,
    fact: Duration::from_secs(3),
};

/// The model.
#[derive(Clone, Debug)]
pub struct Clocks {
    /// The rules that are obeyed.
    pub rules: Rules,
    /// The last second.
    pub horizon: u64,
    /// The most renewals, changes, and questions of the observer.
    pub most: (u8, u8, u8),
}

/// A request that changes the bucket. It is signed, then checked, then sent, and then carried out or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Signed at this time, with this number among the requests.
    Signed(u64, u64),
    /// Checked, but not signed: a mutation.
    Checked,
    /// Sent, and signed at this time.
    Sent(u64, u64),
}

/// The state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    now: u64,
    tenure: Tenure,
    requests: Requests,
    /// A renewal on its way: its counter, when it was sent, and whether it was carried out.
    renewal: Option<(u64, u64, bool)>,
    change: Option<Change>,
    /// The counter in the lease in the bucket.
    lease: Option<u64>,
    watch: Watch<u64>,
    /// A question of the observer: when it was asked, and what the server has answered.
    question: Option<(u64, Option<u64>)>,
    /// The renewals, the changes and the questions so far.
    count: (u8, u8, u8),
    dead: bool,
    /// Whether a change was carried out although the process counted as dead.
    late: bool,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tick {
    /// A second passes.
    Second,
    /// The process sends a renewal.
    Renew,
    /// The server carries it out.
    Renewed,
    /// The answer to it comes.
    RenewalAnswered,
    /// It is lost, or its answer.
    RenewalLost,
    /// The process signs a change.
    Sign,
    /// It looks at its lease, and sends the change, or gives it up.
    Check,
    /// It signs and sends what it has checked: a mutation.
    SignLate,
    /// The server carries the change out. The answer comes, or not.
    Carry(bool),
    /// It is lost.
    Lose,
    /// The observer reads the lease.
    Ask,
    /// The server reads it.
    Read,
    /// The observer gets the answer.
    Answer,
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

impl State {
    fn holds(&self) -> bool {
        self.tenure.holds(seconds(self.now), &LIMITS)
    }

    fn check(&mut self, rules: Rules) {
        let holds = self.holds() || !rules.has(Rule::CheckLease);
        self.change = match self.change {
            Some(Change::Signed(at, number)) if holds => Some(Change::Sent(at, number)),
            Some(Change::Signed(_, number)) => {
                self.requests.answered(number);
                None
            }
            _ => holds.then_some(Change::Checked),
        };
    }

    fn take(&mut self, tick: Tick, rules: Rules) {
        let now = seconds(self.now);
        match tick {
            Tick::Renew => self.count.0 += 1,
            Tick::Sign | Tick::Check if self.change.is_none() => self.count.1 += 1,
            Tick::Ask => self.count.2 += 1,
            _ => {}
        }
        match tick {
            Tick::Second => self.now += 1,
            Tick::Renew => self.renewal = Some((self.tenure.attempt(now), self.now, false)),
            Tick::Renewed => {
                if let Some((counter, _, carried)) = &mut self.renewal {
                    (self.lease, *carried) = (Some(*counter), true);
                }
            }
            Tick::RenewalAnswered => {
                if let Some((_, sent, _)) = self.renewal.take() {
                    self.tenure.renewed(seconds(sent), now, &LIMITS);
                    self.tenure.looked(seconds(sent), now, &LIMITS);
                }
            }
            Tick::RenewalLost => self.renewal = None,
            Tick::Sign => self.change = Some(Change::Signed(self.now, self.requests.signed(now))),
            Tick::Check => self.check(rules),
            Tick::SignLate => self.change = Some(Change::Sent(self.now, self.requests.signed(now))),
            Tick::Carry(answered) => {
                self.late |= self.dead;
                if let (Some(Change::Sent(_, number)), true) = (self.change, answered) {
                    self.requests.answered(number);
                }
                self.change = None;
            }
            Tick::Lose => self.change = None,
            Tick::Ask => self.question = Some((self.now, None)),
            Tick::Read => self.question = self.question.map(|(asked, _)| (asked, self.lease)),
            Tick::Answer => {
                if let Some((asked, Some(counter))) = self.question.take() {
                    let life = self.watch.sight(counter, seconds(asked), now, &LIMITS);
                    self.dead |= life == Life::Dead;
                }
            }
        }
    }
}

impl Model for Clocks {
    type State = State;
    type Action = Tick;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            tenure: Tenure::new(self.rules),
            requests: Requests::default(),
            renewal: None,
            change: None,
            lease: None,
            watch: Watch::new(self.rules),
            question: None,
            count: (0, 0, 0),
            dead: false,
            late: false,
        }]
    }

    fn actions(&self, state: &State, ticks: &mut Vec<Tick>) {
        let expired = |signed: u64| state.now > signed + LIMITS.signature.as_secs();
        // The server has begun to read the body before the signature expired, and ends it within its limit.
        let over = |signed: u64| state.now >= signed + LIMITS.settled().as_secs();
        match state.renewal {
            None if state.count.0 < self.most.0 => ticks.push(Tick::Renew),
            None => {}
            Some((_, sent, false)) if !over(sent) => ticks.extend([Tick::Renewed, Tick::RenewalLost]),
            Some((_, _, false)) => ticks.push(Tick::RenewalLost),
            Some((_, _, true)) => ticks.extend([Tick::RenewalAnswered, Tick::RenewalLost]),
        }
        match state.change {
            None if state.count.1 >= self.most.1 => {}
            None if self.rules.has(Rule::SignBeforeCheck) => ticks.push(Tick::Sign),
            None => ticks.push(Tick::Check),
            // The server refuses what is sent with an expired signature.
            Some(Change::Signed(at, _)) if expired(at) => ticks.push(Tick::Lose),
            Some(Change::Signed(..)) => ticks.push(Tick::Check),
            Some(Change::Checked) => ticks.push(Tick::SignLate),
            Some(Change::Sent(at, _)) if over(at) => ticks.push(Tick::Lose),
            Some(Change::Sent(..)) => ticks.extend([Tick::Carry(true), Tick::Carry(false), Tick::Lose]),
        }
        if !state.dead {
            match state.question {
                None if state.count.2 < self.most.2 => ticks.push(Tick::Ask),
                None => {}
                Some((_, None)) if state.lease.is_some() => ticks.push(Tick::Read),
                Some((_, None)) => {}
                Some((_, Some(_))) => ticks.push(Tick::Answer),
            }
        }
        if state.now < self.horizon {
            ticks.push(Tick::Second);
        }
    }

    fn next_state(&self, last: &State, tick: Tick) -> Option<State> {
        let mut state = last.clone();
        state.take(tick, self.rules);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a dead process changes nothing", |_, state: &State| !state.late),
            Property::always("a dead process knows that its session is over", |_, state: &State| {
                !state.dead || !state.holds()
            }),
            Property::always("what counts as settled is settled", |_, state: &State| {
                let mut requests = state.requests.clone();
                let over = |at: u64| state.now >= at + LIMITS.settled().as_secs();
                let pending = matches!(state.change, Some(Change::Sent(at, _)) if !over(at));
                !pending || requests.any_open(seconds(state.now), &LIMITS)
            }),
            Property::sometimes("a process is counted as dead", |_, state: &State| state.dead),
        ]
    }
}
