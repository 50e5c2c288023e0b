//! Notes for people about the plan of a push. A session makes each note once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix_derivation::StorePath;

use super::decide::{Action, Plan};
use super::progress::Progress;
use crate::store::{StoreLocation, is_floating};

/// The notes that a session has made.
#[derive(Debug, Default)]
pub(super) struct Notes {
    by_closure: AtomicBool,
    floating: AtomicBool,
}

impl Notes {
    /// Makes the notes about a plan. `by_closure` are the paths that may be signed only because a path that was built
    /// here refers to them.
    pub(super) async fn make(
        &self,
        plan: &Plan,
        by_closure: &HashSet<Arc<StorePath>>,
        store: &Arc<StoreLocation>,
        progress: &dyn Progress,
    ) {
        self.note_closure_trust(plan, by_closure, progress);
        self.note_floating(plan, store, progress).await;
    }

    fn note_closure_trust(&self, plan: &Plan, by_closure: &HashSet<Arc<StorePath>>, progress: &dyn Progress) {
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

    async fn note_floating(&self, plan: &Plan, store: &Arc<StoreLocation>, progress: &dyn Progress) {
        let uploads = plan.todo.iter().filter(|todo| todo.action == Action::Upload);
        let candidates: Vec<_> =
            uploads.filter(|todo| todo.info.ca.is_some()).map(|todo| todo.info.clone()).collect();
        if candidates.is_empty() || self.floating.load(Ordering::Relaxed) {
            return;
        }
        let store = store.clone();
        let find = move || candidates.into_iter().find(|info| is_floating(&store, info));
        let Ok(Some(first)) = tokio::task::spawn_blocking(find).await else { return };
        if !self.floating.swap(true, Ordering::Relaxed) {
            progress.remark(&format!(
                "`{}` is an output of a floating content-addressed derivation: larder does not write the realisation, so clients that build this derivation do not find the output in the bucket, and build it themselves",
                first.path.to_basename()
            ));
        }
    }
}
