//! Rescues: objects by which a writer keeps condemned paths that it uses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_hook::fault::{self, point};

use super::facts::Facts;
use super::gate_keeper::{Change, GateKeeper, IGNORES_COLLECTIONS, Passage};
use super::names::{BucketNames, HashPart};
use crate::base::error::Result;
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::collection::{Part, encode_paths};
use crate::protocol::gate::{Open, Stage, Verdict};
use crate::protocol::names::Members;

/// The most paths in a rescue: 3 MB.
const MOST: usize = 90_000;

/// Writes the rescues of a session.
#[derive(Debug)]
pub(super) struct Rescuer {
    bucket: Arc<dyn Bucket>,
    id: String,
    keeper: Arc<GateKeeper>,
    next: AtomicU64,
}

/// What is to be rescued: paths by collections.
pub(super) type Wanted = BTreeMap<String, Vec<HashPart>>;

/// The condemned paths that the session knows to be there: it may rely on them.
pub(super) fn known_and_condemned(open: &[Open<BucketNames>], facts: &Facts) -> Wanted {
    let mut wanted = Wanted::new();
    if open.is_empty() || fault::is(IGNORES_COLLECTIONS) {
        return wanted;
    }
    let known = facts.known();
    for open in open.iter().filter(|open| open.rescuable && open.stage == Stage::Condemned) {
        let condemned = known.iter().filter(|path| open.paths.has(path)).copied();
        wanted.entry(open.id.clone()).or_default().extend(condemned);
    }
    wanted
}

impl Rescuer {
    pub(super) fn new(bucket: Arc<dyn Bucket>, id: &str, keeper: Arc<GateKeeper>) -> Self {
        Self { bucket, id: id.to_owned(), keeper, next: AtomicU64::new(0) }
    }

    /// What is to be rescued of these paths, and whether any of them must wait.
    pub(super) fn needed<'a>(&self, paths: impl IntoIterator<Item = &'a HashPart>) -> (Wanted, bool) {
        let (mut wanted, mut waits) = (Wanted::new(), false);
        if self.keeper.is_open() || fault::is(IGNORES_COLLECTIONS) {
            return (wanted, waits);
        }
        for path in paths {
            match self.keeper.classify(path) {
                Verdict::Free => {}
                Verdict::Wait => waits = true,
                Verdict::Condemned(collections) => {
                    collections.into_iter().for_each(|id| wanted.entry(id).or_default().push(*path));
                }
            }
        }
        (wanted, waits)
    }

    /// Writes rescues. Those that this session has written before are not written again.
    ///
    /// # Errors
    /// When the bucket fails, or a collection closes.
    pub(super) async fn rescue(&self, wanted: Wanted) -> Result<()> {
        for (collection, paths) in wanted {
            let paths: Vec<_> =
                paths.into_iter().filter(|path| self.keeper.classify(path) != Verdict::Free).collect();
            for paths in paths.chunks(MOST) {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let key = Part::Rescue(&format!("{}-{number}", self.id)).key(&collection);
                let change = Change::Rescue(collection.clone());
                let fence = Passage { keeper: self.keeper.clone(), change };
                let bucket = self.bucket.clone().fenced(Arc::new(fence));
                bucket.put(&key, encode_paths(paths).into(), ContentType::Text, Condition::None).await?;
                self.keeper.rescued(&collection, paths.iter().copied());
                point("session: rescued");
            }
        }
        Ok(())
    }
}
