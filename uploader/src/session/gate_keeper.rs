//! What a session knows of its lease, of the open collections, and of its own requests: the state machines of the protocol,
//! as one program runs them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_hook::fault;
use nix_derivation::nixbase32;

use super::facts::Facts;
use super::look::Found;
use super::names::{BucketNames, HashPart, InList, Paths};
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::base::span::span_text;
use crate::bucket::Fence;
use crate::format::marker;
use crate::protocol::gate::{Gate, Mutation, Refusal, Stage, Verdict};
use crate::protocol::leases::Tenure;
use crate::protocol::limits::Limits;
use crate::protocol::names::{Members, Set};
use crate::protocol::requests::Requests;
use crate::protocol::rules::Rules;

/// A collection that has ended is remembered for so many times the time after which a lease is dead: 25 hours, longer than
/// almost every push.
const REMEMBERED: u32 = 30;

/// The word with which a test lets a writer ignore the collections.
pub(super) const IGNORES_COLLECTIONS: &str = "ignores-collections";

/// The times of the protocol, as this program keeps them.
pub fn limits() -> Limits {
    Limits::PRODUCTION.scaled(fault::time_divisor())
}

/// A request that changes what clients see, and what it relies on.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// The narinfo of a path.
    Narinfo {
        /// The path.
        path: HashPart,
        /// Its references, without itself.
        references: Vec<HashPart>,
        /// The key of the NAR that it names.
        nar: Arc<str>,
        /// Since when the process knows what it relies on.
        since: Moment,
    },
    /// A pin, or the record of what a push asked for.
    Record {
        /// The paths in it.
        paths: Vec<HashPart>,
        /// Since when the process knows that they are there.
        since: Moment,
    },
    /// An object that names a path, under a key that is not new: a realisation.
    Naming {
        /// The path.
        path: HashPart,
        /// The key of the object, which a collection may be removing.
        key: Arc<str>,
        /// Since when the process knows that the path is there.
        since: Moment,
    },
    /// A rescue in the collection with this id.
    Rescue(String),
}

/// A collection that has ended since the session began, and what the session forgot then.
#[derive(Debug)]
struct Ended {
    at: Moment,
    paths: Vec<InList<HashPart>>,
    nars: Vec<InList<Arc<str>>>,
}

impl Ended {
    fn has(&self, path: &HashPart) -> bool {
        self.paths.iter().any(|paths| paths.has(path))
    }

    fn has_nar(&self, key: &Arc<str>) -> bool {
        self.nars.iter().any(|nars| nars.has(key))
    }
}

#[derive(Debug)]
struct State {
    gate: Gate<BucketNames>,
    tenure: Tenure,
    requests: Requests,
    removed: Paths,
    ended: Vec<Ended>,
    /// When the session learnt of the last collection that has ended and that it has forgotten itself. What is known since
    /// before may have been taken by it.
    forgets_all_until: Option<Moment>,
    /// Whether the bucket does not admit this program any more.
    is_refused: bool,
}

/// The state machines of a session.
#[derive(Debug)]
pub(super) struct GateKeeper {
    limits: Limits,
    address: String,
    state: Mutex<State>,
}

impl GateKeeper {
    /// A session with the bucket at this address, before its first lease.
    pub(super) fn new(address: String) -> Self {
        let state = State {
            gate: Gate::new(Rules::ALL),
            tenure: Tenure::new(Rules::ALL),
            requests: Requests::default(),
            removed: Paths::default(),
            ended: Vec::new(),
            forgets_all_until: None,
            is_refused: false,
        };
        Self { limits: limits(), address, state: Mutex::new(state) }
    }

    /// The times of the protocol.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The number for the next attempt to write the lease.
    pub(super) fn attempt(&self) -> u64 {
        lock(&self.state).tenure.attempt(now())
    }

    /// The lease that was sent at `sent` is in the bucket.
    pub(super) fn renewed(&self, sent: Moment) {
        lock(&self.state).tenure.renewed(sent.since_start(), now(), &self.limits);
    }

    /// Takes over what a look has found, whose first question was sent at `sent`. `facts` forget the paths of collections that
    /// have ended, before any request passes that relies on them.
    pub(super) fn looked(&self, found: Found, sent: Moment, facts: &Facts) {
        let State { gate, tenure, requests, removed, ended, forgets_all_until, .. } = &mut *lock(&self.state);
        tenure.looked(sent.since_start(), now(), &self.limits);
        *removed = found.removed;
        let change = gate.observe(found.open);
        if change.advanced {
            requests.gate_changed();
        }
        let (kept, old) = std::mem::take(ended)
            .into_iter()
            .partition::<Vec<_>, _>(|ended| ended.at.elapsed() < self.limits.dead() * REMEMBERED);
        *ended = kept;
        *forgets_all_until = old.iter().map(|old| old.at).max().max(*forgets_all_until);
        if !change.forget.is_empty() {
            change.forget.iter().for_each(|paths| facts.forget(paths));
            ended.push(Ended { at: Moment::now(), paths: change.forget, nars: change.forget_nars });
        }
    }

    /// Acknowledges what the gate knows. Returns false while a request that was sent before may still be carried out.
    pub(super) fn acknowledge(&self) -> bool {
        let State { gate, requests, .. } = &mut *lock(&self.state);
        let outdated = requests.outdated_open(now(), &self.limits);
        gate.acknowledge(outdated);
        !outdated
    }

    /// What the lease says of open collections.
    pub(super) fn acknowledgements(&self) -> BTreeMap<String, marker::Stage> {
        let state = lock(&self.state);
        state.gate.acknowledgements().map(|(id, stage)| (id.clone(), in_lease(stage))).collect()
    }

    /// Whether the session goes on.
    pub(super) fn holds(&self) -> bool {
        if fault::is(IGNORES_COLLECTIONS) {
            return true;
        }
        let state = lock(&self.state);
        !state.is_refused && state.tenure.holds(now(), &self.limits)
    }

    /// Ends the session: the bucket does not admit this program any more.
    pub(super) fn refuse(&self) {
        lock(&self.state).is_refused = true;
    }

    /// Whether any request may still be carried out.
    pub(super) fn any_open(&self) -> bool {
        lock(&self.state).requests.any_open(now(), &self.limits)
    }

    /// Whether no collection is open.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.state).gate.is_open()
    }

    /// What a path is to this session.
    pub(super) fn classify(&self, path: &HashPart) -> Verdict<String> {
        lock(&self.state).gate.classify(path)
    }

    /// Whether a narinfo may name the NAR with this key.
    pub(super) fn nar_counts(&self, key: &str) -> bool {
        lock(&self.state).gate.nar_counts(&Arc::from(key))
    }

    /// The paths that nobody may publish.
    pub(super) fn removed(&self) -> Paths {
        lock(&self.state).removed.clone()
    }

    /// Checks that no person has removed the path or one of its references for good.
    pub(super) fn check_permitted<'a>(
        &self,
        path: &'a HashPart,
        references: impl IntoIterator<Item = &'a HashPart>,
    ) -> Result<()> {
        let state = lock(&self.state);
        let mut paths = std::iter::once(path).chain(references);
        if paths.any(|path| state.removed.contains(path)) {
            return Err(removed("publish", &nixbase32::encode(path)));
        }
        Ok(())
    }

    /// Whether a collection that could take the path has ended since then.
    pub(super) fn forgot(&self, path: &HashPart, since: Moment) -> bool {
        lock(&self.state).forgot(since, |ended| ended.has(path))
    }

    /// Whether a collection that could take the NAR with this key has ended since then.
    pub(super) fn forgot_nar(&self, key: &str, since: Moment) -> bool {
        let key = Arc::from(key);
        lock(&self.state).forgot(since, |ended| ended.has_nar(&key))
    }

    /// The server has confirmed a rescue.
    pub(super) fn rescued(&self, collection: &String, paths: impl IntoIterator<Item = HashPart>) {
        lock(&self.state).gate.rescued(collection, paths);
    }

    /// The error of a session that is over.
    pub(super) fn over(&self) -> Error {
        Error::transient(Area::Bucket, format!("the session with `{}` has ended", self.address))
            .because("its lease could not be renewed, or the bucket's format has changed")
    }

    /// Counts a request that is signed among those that may still be carried out.
    pub(super) fn count(&self) -> u64 {
        lock(&self.state).requests.signed(now())
    }

    /// The request has been carried out, or never will be.
    pub(super) fn answered(&self, number: u64) {
        lock(&self.state).requests.answered(number);
    }

    /// Permits a request that is signed, and counts it among those that may still be carried out.
    fn pass(&self, change: &Change) -> Result<u64> {
        let holds = self.holds();
        let state = &mut *lock(&self.state);
        let number = state.requests.signed(now());
        let refusal = state.refusal(change, holds);
        if let Some(refusal) = refusal {
            state.requests.answered(number);
            return Err(self.refused(change, refusal));
        }
        Ok(number)
    }

    fn refused(&self, change: &Change, refusal: Refused) -> Error {
        let (what, path) = match change {
            Change::Narinfo { path, .. } => ("publish", nixbase32::encode(path)),
            Change::Record { paths, .. } => ("record", paths.first().map(nixbase32_of).unwrap_or_default()),
            Change::Naming { key, .. } => ("write", key.to_string()),
            Change::Rescue(_) => ("rescue", "paths".into()),
        };
        let cannot = |reason: &str| {
            Error::transient(Area::Bucket, format!("cannot {what} `{path}`")).because(reason.to_owned())
        };
        let wait = span_text(self.limits.longest_wait(Duration::ZERO));
        match refusal {
            Refused::By(Refusal::SessionOver) => self.over(),
            Refused::By(Refusal::Wait) => cannot("a collection is removing it, or a path that it refers to")
                .hint(format!("try again when the collection has ended, in about {wait} at most")),
            Refused::By(Refusal::NarCondemned) if matches!(change, Change::Naming { .. }) => {
                cannot("a collection is removing what stood there")
                    .hint(format!("try again when the collection has ended, in about {wait} at most"))
            }
            Refused::By(Refusal::NarCondemned) => {
                cannot("a collection is removing its NAR").hint("try again: the NAR is sent again then")
            }
            Refused::Forgotten => {
                cannot("a collection may have removed it meanwhile, or a path that it refers to")
                    .hint("try again")
            }
            Refused::Removed => removed(what, &path),
        }
    }
}

/// The error about a path that a person has removed.
fn removed(what: &str, path: &str) -> Error {
    Error::permanent(Area::Bucket, format!("cannot {what} `{path}`"))
        .because("`larder remove` has removed it, or a path that it refers to, for good")
        .hint("`larder remove --lift` permits it again")
}

/// Why a change must not be sent.
#[derive(Clone, Debug)]
enum Refused {
    By(Refusal),
    /// What the process relies on was known before a collection ended that could take it.
    Forgotten,
    /// A person has removed the path.
    Removed,
}

impl State {
    fn refusal(&self, change: &Change, holds: bool) -> Option<Refused> {
        if fault::is(IGNORES_COLLECTIONS) {
            return None;
        }
        let (mutation, is_forgotten, is_removed) = match change {
            Change::Narinfo { path, references, nar, since: at } => {
                let paths = || std::iter::once(path).chain(references);
                let forgotten =
                    self.forgot(*at, |ended| ended.has_nar(nar) || paths().any(|path| ended.has(path)));
                let removed = paths().any(|path| self.removed.contains(path));
                (Mutation::Narinfo { path, references, nar }, forgotten, removed)
            }
            Change::Naming { path, key, since: at } => {
                let forgotten = self.forgot(*at, |ended| ended.has(path) || ended.has_nar(key));
                let mutation = Mutation::Narinfo { path, references: &[], nar: key };
                (mutation, forgotten, self.removed.contains(path))
            }
            Change::Record { paths, since: at } => {
                let forgotten = self.forgot(*at, |ended| paths.iter().any(|path| ended.has(path)));
                (Mutation::Record { paths }, forgotten, false)
            }
            Change::Rescue(collection) => (Mutation::Rescue { collection }, false, false),
        };
        match self.gate.may_send(&mutation, holds) {
            Err(refusal) => Some(Refused::By(refusal)),
            Ok(()) if is_removed => Some(Refused::Removed),
            Ok(()) if is_forgotten => Some(Refused::Forgotten),
            Ok(()) => None,
        }
    }

    /// Whether a collection for which `could_take` holds has ended since then, or any that is not remembered any more.
    fn forgot(&self, since: Moment, could_take: impl Fn(&Ended) -> bool) -> bool {
        self.forgets_all_until.is_some_and(|until| since <= until)
            || self.ended.iter().any(|ended| ended.at >= since && could_take(ended))
    }
}

/// Lets the attempts of one request pass.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) keeper: Arc<GateKeeper>,
    pub(super) change: Change,
}

impl Fence for Passage {
    fn pass(&self) -> Result<u64> {
        self.keeper.pass(&self.change)
    }

    fn answered(&self, attempt: u64) {
        self.keeper.answered(attempt);
    }
}

fn nixbase32_of(digest: &HashPart) -> String {
    nixbase32::encode(digest)
}

fn now() -> Duration {
    Moment::now().since_start()
}

/// The word for a stage in a lease.
fn in_lease(stage: Stage) -> marker::Stage {
    match stage {
        Stage::Condemned => marker::Stage::Condemned,
        Stage::Closing => marker::Stage::Closing,
        Stage::Deleting => marker::Stage::Final,
    }
}

/// The stage that a lease acknowledges.
pub fn acknowledged(stage: marker::Stage) -> Stage {
    match stage {
        marker::Stage::Condemned => Stage::Condemned,
        marker::Stage::Closing => Stage::Closing,
        marker::Stage::Final => Stage::Deleting,
    }
}
