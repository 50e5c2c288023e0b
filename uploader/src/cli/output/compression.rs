//! Statistics about the compression of a push.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::lock::lock;
use crate::push::progress::Effort;

/// Sums up the compression of all NARs of a push.
#[derive(Default)]
pub(super) struct CompressionStatistics {
    from: AtomicU64,
    to: AtomicU64,
    levels: Mutex<Option<Levels>>,
}

/// The lowest and the highest compression level that a push has used.
#[derive(Clone, Copy)]
pub(super) struct Levels {
    pub(super) lowest: i32,
    pub(super) highest: i32,
}

impl CompressionStatistics {
    /// Adds `from` bytes of NARs that became `to` bytes.
    pub(super) fn add(&self, from: u64, to: u64, effort: Effort) {
        self.from.fetch_add(from, Ordering::Relaxed);
        self.to.fetch_add(to, Ordering::Relaxed);
        let mut levels = lock(&self.levels);
        let Levels { lowest, highest } =
            levels.unwrap_or(Levels { lowest: effort.level, highest: effort.level });
        *levels = Some(Levels { lowest: lowest.min(effort.level), highest: highest.max(effort.level) });
    }

    /// The compressed size so far, in percent of the NAR size.
    pub(super) fn percent(&self) -> f64 {
        100.0 * self.to.load(Ordering::Relaxed) as f64 / self.from.load(Ordering::Relaxed).max(1) as f64
    }

    /// The levels so far; `None` where nothing was compressed.
    pub(super) fn levels(&self) -> Option<Levels> {
        *lock(&self.levels)
    }
}
