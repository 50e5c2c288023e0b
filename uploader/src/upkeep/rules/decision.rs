//! What stays and what may go, with the reasons.

use std::time::Duration;

use super::uses::Use;
use crate::upkeep::inventory::{PathId, PathSet};

/// The mark of a path that no other path keeps.
pub(super) const NO_PARENT: u32 = u32::MAX;

/// What keeps a path, or the path that refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A generation of a pin, by its place in the generations that were given.
    Pin(usize),
    /// It was needed less than [`GRACE`](super::GRACE) ago, or nobody knows when.
    Young,
    /// It was needed within `keep-within`.
    Within,
    /// It fits into `max-size`, and no other rule lets it go.
    Fits,
    /// No pin and no rule says what may go.
    NoRule,
}

/// What becomes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Stays(Keeper),
    /// It may go, because it has not been needed for long enough; for this time already.
    Old(Duration),
    /// It may go, because the bucket is larger than `max-size`, and all that stays was needed later.
    TooLarge,
}

/// One path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) verdict: Option<Verdict>,
    /// The path through which it was reached.
    pub(super) parent: u32,
    /// The time since its root was needed, and how; `None` if pinned or unknown.
    pub(super) need: Option<(u32, Use)>,
}

/// What becomes of each path of a catalog.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    pub(super) rows: Vec<Row>,
    /// Paths that pins name and that the bucket does not have: the place of the generation, and the base name.
    pub missing: Vec<(usize, String)>,
    /// Paths that stay and whose narinfos cannot be read. What they refer to is unknown, so a collection must not act.
    pub unreadable: Vec<PathId>,
    /// The bytes of the narinfos and NARs that stay. A shared NAR counts once.
    pub staying_bytes: u64,
}

impl Decision {
    /// What becomes of a path; `None` if its narinfo was removed while the bucket was read.
    pub fn verdict(&self, id: PathId) -> Option<Verdict> {
        self.rows.get(id.0 as usize)?.verdict
    }

    /// Whether the path may go.
    pub fn may_go(&self, id: PathId) -> bool {
        matches!(self.verdict(id), Some(Verdict::Old(_) | Verdict::TooLarge))
    }

    /// All paths that may go. No path that stays refers to one of them.
    pub fn going(&self) -> PathSet {
        let ids = (0..self.rows.len() as u32).map(PathId);
        PathSet::of(self.rows.len(), ids.filter(|id| self.may_go(*id)))
    }

    /// How the path's root was last needed, and how long ago; `None` if it is pinned, or nobody knows.
    pub fn need(&self, id: PathId) -> Option<(Duration, Use)> {
        let (ago, how) = self.rows.get(id.0 as usize)?.need?;
        Some((Duration::from_secs(ago.into()), how))
    }

    /// The paths from the one that a pin names or a rule speaks of, through referrers, to this path.
    pub fn chain(&self, id: PathId) -> Vec<PathId> {
        let mut chain = vec![id];
        let mut parent = self.rows.get(id.0 as usize).map_or(NO_PARENT, |row| row.parent);
        while parent != NO_PARENT {
            chain.push(PathId(parent));
            parent = self.rows[parent as usize].parent;
        }
        chain.reverse();
        chain
    }
}
