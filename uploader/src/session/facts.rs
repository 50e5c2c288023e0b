//! What a session knows about the bucket. A fact is used for 30 minutes, then the bucket is asked again: other writers
//! and a collector change the bucket meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix_derivation::StorePath;

use crate::base::clock::Moment;
use crate::base::lock::lock;

/// The age up to which larder relies on a fact about the bucket.
pub const FACT_AGE: Duration = Duration::from_secs(30 * 60);

/// The paths whose narinfo is in the bucket.
#[derive(Debug)]
pub struct Facts {
    /// For each path, the time at which the bucket last proved its narinfo.
    proved: Mutex<HashMap<Arc<StorePath>, Moment>>,
    /// The age up to which a fact is fresh.
    max_age: Duration,
}

impl Default for Facts {
    /// No fact is known.
    fn default() -> Self {
        Self { proved: Mutex::default(), max_age: FACT_AGE }
    }
}

impl Facts {
    /// Records that the narinfo of `path` was in the bucket at the time `at`.
    pub fn record(&self, path: Arc<StorePath>, at: Moment) {
        lock(&self.proved).insert(path, at);
    }

    /// Records the same for several paths.
    pub fn record_all(&self, paths: impl IntoIterator<Item = Arc<StorePath>>, at: Moment) {
        lock(&self.proved).extend(paths.into_iter().map(|path| (path, at)));
    }

    /// Whether the bucket has proved the narinfo of `path` within the last 30 minutes.
    pub fn is_fresh(&self, path: &StorePath) -> bool {
        self.age(path).is_some_and(|age| age <= self.max_age)
    }

    /// Whether the bucket last proved the narinfo of `path` more than 30 minutes ago. Without a fact, the answer is no.
    pub fn is_outdated(&self, path: &StorePath) -> bool {
        self.age(path).is_some_and(|age| age > self.max_age)
    }

    fn age(&self, path: &StorePath) -> Option<Duration> {
        lock(&self.proved).get(path).map(|at| at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: u8) -> Arc<StorePath> {
        Arc::new(StorePath::from_parts([number; 20], "path").unwrap())
    }

    #[test]
    fn a_fact_is_fresh_and_then_outdated() {
        let at = Moment::now();
        let [fresh, outdated] = [FACT_AGE, Duration::ZERO].map(|max_age| {
            let facts = Facts { max_age, ..Facts::default() };
            facts.record(path(1), at);
            facts
        });
        while at.elapsed() == Duration::ZERO {
            std::thread::yield_now();
        }
        assert!(fresh.is_fresh(&path(1)) && !fresh.is_outdated(&path(1)));
        assert!(!outdated.is_fresh(&path(1)) && outdated.is_outdated(&path(1)));
    }

    #[test]
    fn a_path_without_a_fact_is_neither_fresh_nor_outdated() {
        let facts = Facts::default();
        facts.record_all([path(1), path(2)], Moment::now());
        assert!(facts.is_fresh(&path(1)) && facts.is_fresh(&path(2)));
        assert!(!facts.is_fresh(&path(3)) && !facts.is_outdated(&path(3)));
    }
}
