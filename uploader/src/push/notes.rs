//! Notes for people about the plan of a push. A session makes each note once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix_derivation::StorePath;

use super::decide::Plan;
use super::progress::Progress;

/// The notes that a session has made.
#[derive(Debug, Default)]
pub(super) struct Notes {
    by_closure: AtomicBool,
}

impl Notes {
    /// Makes the notes about a plan. `by_closure` are the paths that may be signed only because a path that was built
    /// here refers to them.
    pub(super) fn make(&self, plan: &Plan, by_closure: &HashSet<Arc<StorePath>>, progress: &dyn Progress) {
        let mut signed =
            plan.todo.iter().map(|todo| &todo.info.path).filter(|path| by_closure.contains(*path));
        let Some(first) = signed.next() else { return };
        if self.by_closure.swap(true, Ordering::Relaxed) {
            return;
        }
        let (count, first) = (1 + signed.count(), first.to_basename());
        let paths = if count == 1 { "path" } else { "paths" };
        progress.remark(&format!(
            "larder signs {count} {paths} only because a path that was built here refers to them, the first is `{first}`; `closure-trust = false` refuses such paths"
        ));
    }
}
