//! What a collector may do next with one collection.

use std::time::Duration;

use super::gate::Stage;
use super::leases::{Life, Role};
use super::limits::Limits;
use super::look::Taken;
use super::names::{Names, Set};
use super::rules::{Rule, Rules};

/// What the leases in the bucket say about one collection. They were listed after its last stage was in the bucket for
/// certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Acknowledged {
    /// The last stage that was in the bucket, for certain, when the listing of the leases was asked for.
    pub listed_after: Stage,
    /// The lowest stage that a living writer has acknowledged; `None` if one has acknowledged nothing.
    pub lowest: Option<Stage>,
}

impl Acknowledged {
    /// What these leases say. For each lease: what the process is, whether it lives, and the stage of this collection that
    /// it acknowledges. A lease that cannot be read acknowledges nothing.
    pub fn by(listed_after: Stage, leases: impl IntoIterator<Item = (Role, Life, Option<Stage>)>) -> Self {
        let living =
            leases.into_iter().filter(|(role, life, _)| *role == Role::Writer && *life == Life::Living);
        let lowest = living.map(|(_, _, stage)| stage).min().unwrap_or(Some(Stage::Deleting));
        Self { listed_after, lowest }
    }

    fn reach(self, stage: Stage, rules: Rules) -> bool {
        let fresh = self.listed_after >= stage || !rules.has(Rule::ListAfterPublication);
        fresh && self.lowest >= Some(stage)
    }
}

/// How far the collector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Condemning,
    Condemned,
    Closing,
    /// The last look is taken; `final` may be in the bucket or not.
    Looked,
    /// The levels before this one are absent for certain. After the paths come the NARs.
    Deleting(usize),
    /// All is absent, or given up.
    Quarantine,
    Done,
}

/// What the collector does next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step<N: Names> {
    /// Its session is over: it sends nothing more.
    SessionOver,
    /// It puts `condemned` into the bucket, then calls [`Collection::published`].
    PublishCondemned,
    /// It lists and reads the leases again later.
    AwaitAcknowledgements(Stage),
    /// It puts `closing` into the bucket, then calls [`Collection::published`].
    PublishClosing,
    /// It takes the last look, saves the bytes of what goes, and calls [`Collection::looked`]; after any error,
    /// [`Collection::abort`].
    TakeLastLook,
    /// It puts `final` into the bucket, then calls [`Collection::published`].
    PublishFinal,
    /// It deletes these paths in any order, sees for certain that they are absent, and calls [`Collection::absent`].
    DeletePaths(N::Paths),
    /// The same for these NARs.
    DeleteNars(N::Nars),
    /// It asks again when so much time has passed.
    WaitOut(Duration),
    /// It puts `done` into the bucket, then calls [`Collection::published`].
    PublishDone,
    /// The collection has ended.
    Nothing,
}

/// A collection in the hands of its collector, which [may act](super::leases::Claim::Act).
///
/// Before each request, the collector signs the request, asks [`Collection::next`] again, and sends the request only if
/// the answer is the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collection<N: Names> {
    state: State,
    levels: Vec<N::Paths>,
    nars: N::Nars,
    rules: Rules,
}

impl<N: Names> Collection<N> {
    /// A new collection. Nothing of it is in the bucket. No other collection is open: the collector has ended them all by
    /// [`Collection::taken_over`].
    pub fn new(rules: Rules) -> Self {
        Self { state: State::Condemning, levels: Vec::new(), nars: N::Nars::default(), rules }
    }

    /// An open collection of a collector that is dead, or has ended. One that has no `final` is given up; one that has it
    /// goes on from the first level: a deletion may be repeated. If `final` cannot be read, [`Collection::abort`] gives it up. `levels` and `nars` are those of `final`, if it is there.
    pub fn taken_over(stage: Stage, levels: Vec<N::Paths>, nars: N::Nars, rules: Rules) -> Self {
        let state = match stage {
            Stage::Condemned | Stage::Closing => State::Quarantine,
            Stage::Deleting if rules.has(Rule::ContinueFinal) => State::Deleting(0),
            Stage::Deleting => State::Closing,
        };
        Self { state, levels, nars, rules }
    }

    /// What the collector does next. `holds` is [`Limits::holds`] for its own lease at this moment; `acknowledged` is what it
    /// has read last; `deletion` is the time since it signed its last deletion, of whatever collection.
    pub fn next(
        &self,
        holds: bool,
        acknowledged: Option<Acknowledged>,
        deletion: Option<Duration>,
        limits: &Limits,
    ) -> Step<N> {
        if !holds && self.rules.has(Rule::CheckLease) {
            return Step::SessionOver;
        }
        let reach = |stage, rule| {
            !self.rules.has(rule) || acknowledged.is_some_and(|all| all.reach(stage, self.rules))
        };
        match self.state {
            State::Condemning => Step::PublishCondemned,
            State::Condemned if reach(Stage::Condemned, Rule::AwaitCondemned) => Step::PublishClosing,
            State::Condemned => Step::AwaitAcknowledgements(Stage::Condemned),
            State::Closing if reach(Stage::Closing, Rule::AwaitClosing) => Step::TakeLastLook,
            State::Closing => Step::AwaitAcknowledgements(Stage::Closing),
            State::Looked => Step::PublishFinal,
            State::Deleting(level) => match self.levels.get(level) {
                Some(paths) => Step::DeletePaths(paths.clone()),
                None => Step::DeleteNars(self.nars.clone()),
            },
            State::Quarantine => self.quarantine(deletion, limits),
            State::Done => Step::Nothing,
        }
    }

    fn quarantine(&self, deletion: Option<Duration>, limits: &Limits) -> Step<N> {
        let left = deletion.map_or(Duration::ZERO, |age| limits.settled().saturating_sub(age));
        if left.is_zero() || !self.rules.has(Rule::Quarantine) {
            Step::PublishDone
        } else {
            Step::WaitOut(left)
        }
    }

    /// Records that the object of the last `Publish…` step is in the bucket for certain.
    pub fn published(&mut self) {
        self.state = match self.state {
            State::Condemning => State::Condemned,
            State::Condemned => State::Closing,
            State::Looked => self.first_deletion(),
            State::Quarantine => State::Done,
            _ => return,
        };
    }

    /// Records the result of the last look.
    pub fn looked(&mut self, levels: Vec<N::Paths>, taken: Taken<N>) {
        if matches!(self.state, State::Closing) {
            (self.levels, self.nars, self.state) = (levels, taken.nars, State::Looked);
        }
    }

    /// Records that what the last `Delete…` step named is absent for certain.
    pub fn absent(&mut self) {
        if let State::Deleting(level) = self.state {
            let last = self.levels.len() + usize::from(!self.nars.is_empty());
            self.state = if level + 1 < last { State::Deleting(level + 1) } else { State::Quarantine };
        }
    }

    /// Gives the collection up, after any error. What has been deleted stays so.
    pub fn abort(&mut self) {
        if !matches!(self.state, State::Done) {
            self.state = State::Quarantine;
        }
    }

    fn first_deletion(&self) -> State {
        if self.levels.is_empty() && self.nars.is_empty() { State::Quarantine } else { State::Deleting(0) }
    }

    /// The last stage that is in the bucket for certain. The leases are listed after that.
    pub fn stage(&self) -> Option<Stage> {
        match self.state {
            State::Condemning => None,
            State::Condemned => Some(Stage::Condemned),
            State::Closing | State::Looked => Some(Stage::Closing),
            _ => Some(Stage::Deleting),
        }
    }
}
