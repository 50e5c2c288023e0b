//! What a session knows about the bucket. A fact is used for 30 minutes, then the bucket is asked again: other writers
//! and a collector change the bucket meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix_derivation::StorePath;

use super::names::{HashPart, InList};
use crate::base::clock::Moment;
use crate::base::lock::lock;
use crate::protocol::names::Members;

/// The age up to which larder relies on a fact about the bucket.
pub const FACT_AGE: Duration = Duration::from_secs(30 * 60);

/// How the bucket proved that a client can take a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// With a narinfo that has all our signatures, and its NAR.
    Complete,
    /// With another build, or with a narinfo that lacks signatures of ours, so that each push looks again.
    Foreign,
    /// Not any more: whoever relies on the path asks again.
    Lost,
}

/// The paths that a client can take from the bucket.
#[derive(Debug)]
pub struct Facts {
    /// For each path, the time at which the bucket last proved it, and how.
    proved: Mutex<HashMap<Arc<StorePath>, (Moment, Proof)>>,
    /// What collections could take that have ended, and when the session learnt of it. Answers to questions that were sent
    /// before count no more.
    ended: Mutex<Vec<(Moment, InList<HashPart>)>>,
    /// The age up to which a fact is fresh.
    max_age: Duration,
}

impl Default for Facts {
    /// No fact is known.
    fn default() -> Self {
        Self { proved: Mutex::default(), ended: Mutex::default(), max_age: FACT_AGE }
    }
}

impl Facts {
    /// Records that a client could take `path` at the time `at`.
    pub fn record(&self, path: Arc<StorePath>, at: Moment, proof: Proof) {
        self.record_all([(path, proof)], at);
    }

    /// Records the same for several paths.
    pub fn record_all(&self, paths: impl IntoIterator<Item = (Arc<StorePath>, Proof)>, at: Moment) {
        let ended = lock(&self.ended);
        let is_late =
            |path: &StorePath| ended.iter().any(|(ended, paths)| at <= *ended && paths.has(path.digest()));
        // A late answer leaves no gap: a reference without a fact counts as upstream's.
        let proved = paths.into_iter().map(|(path, proof)| {
            let proof = if !ended.is_empty() && is_late(&path) { Proof::Lost } else { proof };
            (path, (at, proof))
        });
        lock(&self.proved).extend(proved);
    }

    /// Forgets these paths, which a collection could take that has ended: whoever relies on them asks again.
    pub(super) fn forget(&self, paths: &InList<HashPart>) {
        let mut ended = lock(&self.ended);
        ended.retain(|(at, _)| at.elapsed() <= self.max_age * 4);
        ended.push((Moment::now(), paths.clone()));
        for (path, (_, proof)) in lock(&self.proved).iter_mut() {
            if paths.has(path.digest()) {
                *proof = Proof::Lost;
            }
        }
    }

    /// The paths that the session knows to be in the bucket.
    pub(super) fn known(&self) -> Vec<HashPart> {
        let proved = lock(&self.proved);
        let known =
            proved.iter().filter(|(_, (at, proof))| *proof != Proof::Lost && at.elapsed() <= self.max_age);
        known.map(|(path, _)| *path.digest()).collect()
    }

    /// Records that the bucket has shown that a client cannot take these paths. A path without a fact stays without.
    pub fn lose<'a>(&self, paths: impl IntoIterator<Item = &'a Arc<StorePath>>) {
        let mut proved = lock(&self.proved);
        for path in paths {
            if let Some((_, proof)) = proved.get_mut(path) {
                *proof = Proof::Lost;
            }
        }
    }

    /// Whether the bucket has proved within the last 30 minutes that `path` is complete, so that a push need not ask.
    pub fn is_known(&self, path: &StorePath) -> bool {
        lock(&self.proved)
            .get(path)
            .is_some_and(|(at, proof)| *proof == Proof::Complete && at.elapsed() <= self.max_age)
    }

    /// Whether the bucket last proved `path` more than 30 minutes ago, in whatever way, or has disproved it since. Without
    /// a fact, the answer is no.
    pub fn is_outdated(&self, path: &StorePath) -> bool {
        lock(&self.proved)
            .get(path)
            .is_some_and(|(at, proof)| *proof == Proof::Lost || at.elapsed() > self.max_age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: u8) -> Arc<StorePath> {
        Arc::new(StorePath::from_parts([number; 20], "path").unwrap())
    }

    const PROOFS: [Proof; 2] = [Proof::Complete, Proof::Foreign];

    #[test]
    fn every_fact_becomes_outdated() {
        let at = Moment::now();
        let [fresh, outdated] =
            [FACT_AGE, Duration::ZERO].map(|max_age| Facts { max_age, ..Facts::default() });
        for facts in [&fresh, &outdated] {
            facts.record_all((1..).map(path).zip(PROOFS), at);
        }
        while at.elapsed() == Duration::ZERO {
            std::thread::yield_now();
        }
        for number in 1..=2 {
            assert!(!fresh.is_outdated(&path(number)) && outdated.is_outdated(&path(number)), "{number}");
            assert!(!outdated.is_known(&path(number)), "{number}");
        }
    }

    #[test]
    fn a_push_asks_again_about_what_is_not_complete() {
        let facts = Facts::default();
        facts.record_all((1..).map(path).zip(PROOFS), Moment::now());
        assert!(facts.is_known(&path(1)) && !facts.is_known(&path(2)));
    }

    #[test]
    fn a_path_that_is_lost_is_asked_about_again() {
        let facts = Facts::default();
        facts.record(path(1), Moment::now(), Proof::Complete);
        facts.lose([&path(1), &path(2)]);
        assert!(!facts.is_known(&path(1)) && facts.is_outdated(&path(1)));
        assert!(!facts.is_outdated(&path(2)));
    }

    #[test]
    fn what_a_collection_could_take_is_asked_about_again() {
        let facts = Facts::default();
        let before = Moment::now();
        facts.record_all((1..).map(path).zip(PROOFS), before);
        assert_eq!(facts.known().len(), 2);
        facts.forget(&InList::Whole([*path(1).digest()].into_iter().collect()));
        assert!(facts.is_outdated(&path(1)) && !facts.is_outdated(&path(2)));
        // An answer to a question from before says nothing.
        facts.record(path(1), before, Proof::Complete);
        assert!(!facts.is_known(&path(1)));
        // Without a fact before, too: the path would count as upstream's.
        let late = Facts::default();
        late.forget(&InList::Whole([*path(1).digest()].into_iter().collect()));
        late.record(path(1), before, Proof::Complete);
        assert!(late.is_outdated(&path(1)));
        while before.elapsed() == Duration::ZERO {
            std::thread::yield_now();
        }
        facts.record(path(1), Moment::now(), Proof::Complete);
        assert!(facts.is_known(&path(1)));
    }

    #[test]
    fn a_path_without_a_fact_is_neither_known_nor_outdated() {
        let facts = Facts::default();
        facts.record(path(1), Moment::now(), Proof::Complete);
        assert!(!facts.is_known(&path(3)) && !facts.is_outdated(&path(3)));
    }
}
