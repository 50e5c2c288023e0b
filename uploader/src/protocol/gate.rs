//! What a writer may do while collections are open. Signing, repairing, promoting and undoing are writers, too.

use super::names::{Members, Names, Set};
use super::rules::{Rule, Rules};

/// How far a collection is, as its objects in the bucket say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// `condemned` is there: who needs one of its paths may use it, and rescues it to keep it.
    Condemned,
    /// `closing` is there: the paths that were not rescued wait.
    Closing,
    /// `final` is there: its paths are being deleted. All others are free.
    Deleting,
}

/// An open collection, as it was read. A collection with `done`, or without `condemned`, is not open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Open<N: Names> {
    /// The id.
    pub id: N::Collection,
    /// How far it is.
    pub stage: Stage,
    /// The paths of `final` if it is there, otherwise those of `condemned`.
    pub paths: N::OpenPaths,
    /// The NARs of `final` if it is there, otherwise those of `condemned`.
    pub nars: N::OpenNars,
    /// Whether its paths can be rescued. Those of a removal, which a person has asked for, cannot.
    pub rescuable: bool,
}

/// An open collection, and what this writer has done about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry<N: Names> {
    open: Open<N>,
    /// The stage that the lease may acknowledge.
    acknowledged: Option<Stage>,
    /// The paths that this writer has rescued. The server has confirmed the rescues.
    rescued: N::Paths,
}

/// What a path is to a writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict<C> {
    /// It may be used, written, recorded and reported.
    Free,
    /// It is free until the writer learns that one of the collections closes. The writer keeps it by rescuing it in all of
    /// these collections; a rescue counts when the server has confirmed it. The list is empty if there is no rescue.
    Condemned(Vec<C>),
    /// It can be neither used nor written until a collection ends.
    Wait,
}

/// A request that changes the bucket.
#[derive(Clone, Copy, Debug)]
pub enum Mutation<'a, N: Names> {
    /// A NAR, a listing or a log under a key that was never used.
    NewKey,
    /// The narinfo of `path`: new, signed anew, repaired, promoted or brought back.
    Narinfo {
        /// The path.
        path: &'a N::Path,
        /// Its references, without itself and without those of upstream.
        references: &'a [N::Path],
        /// The NAR that it names.
        nar: &'a N::Nar,
    },
    /// A pin, or the record of what a push asked for.
    Record {
        /// The paths in it.
        paths: &'a [N::Path],
    },
    /// A rescue.
    Rescue {
        /// The collection.
        collection: &'a N::Collection,
    },
}

/// Why a request must not be sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The session is over: the lease has run out.
    SessionOver,
    /// A path, or the collection of a rescue, cannot be used until a collection ends.
    Wait,
    /// The NAR counts as absent: it is uploaded again under a new key.
    NarCondemned,
}

/// What a look at the collections has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change<N: Names> {
    /// Whether a collection is new or further than before. The requests that are open now were sent before: see
    /// [`Requests::gate_changed`](super::requests::Requests::gate_changed).
    pub advanced: bool,
    /// The paths of collections that have ended. The writer forgets what it knows about them, and throws away the answers
    /// to questions about presence that it had sent before this look.
    pub forget: Vec<N::OpenPaths>,
    /// The NARs of these collections. The same holds for them.
    pub forget_nars: Vec<N::OpenNars>,
}

/// The open collections, as this writer has last read them.
///
/// A writer puts its lease into the bucket, then looks ([`Gate::observe`]), then acknowledges ([`Gate::acknowledge`]) and
/// writes the acknowledgements into its lease, and only then asks which paths are present.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gate<N: Names> {
    entries: Vec<Entry<N>>,
    rules: Rules,
}

impl<N: Names> Gate<N> {
    /// A gate before the first look.
    pub fn new(rules: Rules) -> Self {
        Self { entries: Vec::new(), rules }
    }

    /// Takes over what a complete look has found: all open collections. After an error, the gate stays as it is.
    pub fn observe(&mut self, seen: Vec<Open<N>>) -> Change<N> {
        let mut change = Change { advanced: false, forget: Vec::new(), forget_nars: Vec::new() };
        let (rules, before) = (self.rules, std::mem::take(&mut self.entries));
        for entry in before {
            if seen.iter().any(|open| open.id == entry.open.id) {
                self.entries.push(entry);
            } else if rules.has(Rule::AskAnew) {
                let mut lost = entry.open.paths;
                for path in entry.rescued.items() {
                    lost.spare(path);
                }
                change.forget.push(lost);
                change.forget_nars.push(entry.open.nars);
            }
        }
        for open in seen {
            match self.entries.iter_mut().find(|entry| entry.open.id == open.id) {
                // A stage never goes back. A look that says so has read an old listing.
                Some(entry) if entry.open.stage >= open.stage => {}
                Some(entry) => {
                    entry.open = open;
                    change.advanced = true;
                }
                None => {
                    self.entries.push(Entry { open, acknowledged: None, rescued: N::Paths::default() });
                    change.advanced = true;
                }
            }
        }
        self.entries.sort_by(|a, b| a.open.id.cmp(&b.open.id));
        change
    }

    /// Acknowledges what the gate knows, unless a request that was sent before may still be carried out: `outdated_open` is
    /// [`Requests::outdated_open`](super::requests::Requests::outdated_open). Returns whether the lease says something new.
    pub fn acknowledge(&mut self, outdated_open: bool) -> bool {
        if outdated_open && self.rules.has(Rule::SettleBeforeAcknowledging) {
            return false;
        }
        let mut new = false;
        for entry in &mut self.entries {
            new |= entry.acknowledged != Some(entry.open.stage);
            entry.acknowledged = Some(entry.open.stage);
        }
        new
    }

    /// What the lease says at its next renewal: for each open collection, the last stage that is acknowledged.
    pub fn acknowledgements(&self) -> impl Iterator<Item = (&N::Collection, Stage)> {
        self.entries.iter().filter_map(|entry| Some((&entry.open.id, entry.acknowledged?)))
    }

    /// The collections that were open at the last look, and how far they were.
    pub fn collections(&self) -> impl Iterator<Item = (&N::Collection, Stage)> {
        self.entries.iter().map(|entry| (&entry.open.id, entry.open.stage))
    }

    /// Whether no collection is open, so that every path is free.
    pub fn is_open(&self) -> bool {
        self.entries.is_empty()
    }

    /// What `path` is to this writer.
    pub fn classify(&self, path: &N::Path) -> Verdict<N::Collection> {
        let last = self.last_for_rescues();
        let (mut condemned, mut rescue) = (false, Vec::new());
        for Entry { open, rescued, .. } in &self.entries {
            if !open.paths.has(path) {
                continue;
            }
            match open.stage {
                Stage::Condemned | Stage::Closing if rescued.contains(path) => {}
                stage if stage <= last => {
                    condemned = true;
                    rescue.extend(open.rescuable.then(|| open.id.clone()));
                }
                _ => return Verdict::Wait,
            }
        }
        if condemned { Verdict::Condemned(rescue) } else { Verdict::Free }
    }

    /// The last stage in which a path may be used without a rescue, and rescued.
    fn last_for_rescues(&self) -> Stage {
        if self.rules.has(Rule::WaitAfterClosing) { Stage::Condemned } else { Stage::Closing }
    }

    /// Whether the NAR may be named by a narinfo. Otherwise it counts as absent.
    pub fn nar_counts(&self, nar: &N::Nar) -> bool {
        !self.rules.has(Rule::AvoidCondemnedNars)
            || !self.entries.iter().any(|entry| entry.open.nars.has(nar))
    }

    /// Records that the server has confirmed the rescue of `paths` in `collection`.
    pub fn rescued(&mut self, collection: &N::Collection, paths: impl IntoIterator<Item = N::Path>) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.open.id == *collection) {
            for path in paths {
                entry.rescued.insert(path);
            }
        }
    }

    /// Whether a request may be sent now. It is already signed, and counts among the
    /// [`Requests`](super::requests::Requests). `holds` is [`Limits::holds`](super::limits::Limits::holds) at this moment.
    /// Each further attempt is signed and checked again.
    ///
    /// # Errors
    /// What hinders the request.
    pub fn may_send(&self, mutation: &Mutation<'_, N>, holds: bool) -> Result<(), Refusal> {
        if !holds && self.rules.has(Rule::CheckLease) {
            return Err(Refusal::SessionOver);
        }
        match mutation {
            Mutation::NewKey => Ok(()),
            Mutation::Narinfo { path, references, nar } => {
                let references: &[N::Path] =
                    if self.rules.has(Rule::GateReferences) { references } else { &[] };
                self.all_free(std::iter::once(*path).chain(references))?;
                if self.nar_counts(nar) { Ok(()) } else { Err(Refusal::NarCondemned) }
            }
            Mutation::Record { paths } if self.rules.has(Rule::GateRecords) => self.all_free(*paths),
            Mutation::Record { .. } => Ok(()),
            Mutation::Rescue { collection } => {
                let last = self.last_for_rescues();
                let open = self.entries.iter().map(|entry| &entry.open);
                let mut open = open.filter(|open| open.id == **collection && open.rescuable);
                let open = open.any(|open| open.stage <= last);
                if open { Ok(()) } else { Err(Refusal::Wait) }
            }
        }
    }

    fn all_free<'a>(&self, paths: impl IntoIterator<Item = &'a N::Path>) -> Result<(), Refusal>
    where
        N::Path: 'a,
    {
        let waits = paths.into_iter().any(|path| self.classify(path) == Verdict::Wait);
        if waits { Err(Refusal::Wait) } else { Ok(()) }
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
