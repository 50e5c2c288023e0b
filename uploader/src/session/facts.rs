//! What a session knows about the bucket. A fact is used for 30 minutes, then the bucket is asked again: other writers and
//! a collector change the bucket meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix_derivation::StorePath;

use crate::base::clock::Moment;
use crate::base::lock::lock;

/// The age from which a fact about the bucket is not relied on.
pub const FACT_AGE: Duration = Duration::from_secs(30 * 60);

/// The paths whose narinfo is in the bucket, each with the time at which the bucket last proved it.
#[derive(Debug, Default)]
pub struct Facts(Mutex<HashMap<Arc<StorePath>, Moment>>);

impl Facts {
    /// Records that the narinfo of `path` was in the bucket at the time `at`.
    pub fn record(&self, path: Arc<StorePath>, at: Moment) {
        lock(&self.0).insert(path, at);
    }

    /// Records the same for several paths.
    pub fn record_all(&self, paths: impl IntoIterator<Item = Arc<StorePath>>, at: Moment) {
        lock(&self.0).extend(paths.into_iter().map(|path| (path, at)));
    }

    /// Whether the bucket has proved the narinfo of `path` within the last 30 minutes.
    pub fn is_fresh(&self, path: &StorePath) -> bool {
        self.age(path).is_some_and(|age| age <= FACT_AGE)
    }

    /// Whether the bucket has proved the narinfo of `path` before that only.
    pub fn is_outdated(&self, path: &StorePath) -> bool {
        self.age(path).is_some_and(|age| age > FACT_AGE)
    }

    fn age(&self, path: &StorePath) -> Option<Duration> {
        lock(&self.0).get(path).map(|at| at.elapsed())
    }
}
