//! Shows what a collection takes, and how it goes on.

use std::collections::HashSet;
use std::sync::Mutex;

use serde_json::json;

use super::quantity::{count, size};
use super::terminal::{data, say};
use crate::base::lock::lock;
use crate::base::span::span_text;
use crate::upkeep::collect::{Ended, Marking, News};
use crate::upkeep::inventory::PathId;
use crate::upkeep::rules::{Keeper, Verdict};

/// The number of paths that are shown.
const SHOWN: usize = 10;

/// Shows collections.
#[derive(Debug)]
pub(in crate::cli) struct Collections {
    json: bool,
    /// The last news. News that are the same are not told again.
    last: Mutex<String>,
}

impl Collections {
    /// As JSON lines, or for people.
    pub(in crate::cli) fn new(json: bool) -> Self {
        Self { json, last: Mutex::default() }
    }

    /// Shows what may go.
    pub(in crate::cli) fn plan(&self, marking: &Marking) {
        let Marking { catalog, decision, garbage, .. } = marking;
        let weight = |id: PathId| catalog.nar(id).map_or(0, |nar| catalog.nar_object(nar).1.size);
        if self.json {
            for id in &garbage.paths {
                let line = json!({
                    "type": "path", "path": catalog.basename(*id), "bytes": weight(*id), "rule": rule(decision.verdict(*id)),
                });
                data(&line.to_string());
            }
            let line = json!({
                "type": "plan", "paths": garbage.paths.len(), "objects": garbage.objects.len(), "bytes": garbage.bytes,
                "stay": catalog.paths() - garbage.paths.len(), "partial": garbage.is_partial,
            });
            data(&line.to_string());
            return;
        }
        let mut largest: Vec<_> = garbage.paths.iter().map(|id| (weight(*id), *id)).collect();
        largest.sort_unstable_by_key(|(bytes, id)| (std::cmp::Reverse(*bytes), *id));
        for (bytes, id) in largest.iter().take(SHOWN) {
            data(&format!(
                "  {:>9}  {} ({})",
                size(*bytes),
                catalog.basename(*id),
                rule(decision.verdict(*id))
            ));
        }
        if largest.len() > SHOWN {
            data(&format!("  … and {} (`--json` shows all)", count(largest.len() - SHOWN, "path")));
        }
        let pins: HashSet<_> = marking.pins.iter().map(|pin| &pin.name).collect();
        say(&format!(
            "{} may go, with {} that no narinfo needs: {}; {} stay, {} of them by {}",
            count(garbage.paths.len(), "path"),
            count(garbage.objects.len(), "other object"),
            size(garbage.bytes),
            catalog.paths() - garbage.paths.len(),
            pinned(marking),
            count(pins.len(), "pin"),
        ));
        if garbage.is_partial {
            say("more may go than one collection takes; collect again after this one");
        }
    }

    /// Tells how it goes on.
    pub(in crate::cli) fn news(&self, news: News) {
        let text = match news {
            News::TakesOver { is_final: true } => "going on with a collection that was not ended".into(),
            News::TakesOver { is_final: false } => "giving up a collection that was not ended".into(),
            News::WaitsForWriters { is_closing, writers } => format!(
                "waiting until {} of {}",
                if writers == 1 { "1 writer knows".into() } else { format!("{writers} writers know") },
                if is_closing { "what is closed" } else { "what may go" }
            ),
            News::LooksAgain => "looking again".into(),
            News::Deleted { done, all } => format!("deleted {done} of {}", count(all, "object")),
            News::WaitsOut(left) => format!(
                "waiting {}: until then, the server may carry out a deletion late. Interrupting does no harm",
                span_text(left)
            ),
        };
        self.tell(text);
    }

    /// Tells that other collectors are at work, or were killed not long ago.
    pub(in crate::cli) fn waits(&self, others: usize) {
        let others = count(others, "other collector");
        self.tell(format!("waiting for {others}; one that was killed counts as dead after 50 minutes"));
    }

    fn tell(&self, text: String) {
        let mut last = lock(&self.last);
        if *last == text {
            return;
        }
        match self.json {
            true => data(&json!({ "type": "progress", "text": text }).to_string()),
            false => say(&text),
        }
        *last = text;
    }

    /// Shows how it has ended.
    pub(in crate::cli) fn ended(&self, ended: &Ended, is_partial: bool) {
        let Ended { id, paths, objects, spared, error } = ended;
        if self.json {
            let line = json!({
                "type": "summary", "id": id, "paths": paths, "objects": objects, "spared": spared,
                "partial": is_partial, "givenUp": error.is_some(),
            });
            data(&line.to_string());
            return;
        }
        if (*paths, *objects, *spared) == (0, 0, 0) && error.is_none() {
            say("nothing goes");
            return;
        }
        say(&format!(
            "collection {id}: deleted {} and {}; {spared} stay, because they are needed after all",
            count(*paths, "path"),
            count(*objects, "other object"),
        ));
        if *paths > 0 {
            say(&format!("`larder collect --undo {id}` brings the paths back"));
        }
    }
}

fn pinned(marking: &Marking) -> usize {
    let is_pinned =
        |id: &PathId| matches!(marking.decision.verdict(*id), Some(Verdict::Stays(Keeper::Pin(_))));
    marking.catalog.ids().filter(is_pinned).count()
}

fn rule(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::TooLarge) => "max-size",
        Some(Verdict::Old(_)) => "old",
        _ => "removed",
    }
}
