//! The agent's records: `state/summary.json` for `larder status`, and the id of its session with the bucket in
//! `state/session`. The work of the agent does not depend on them.

use larder_hook::queue::{Layout, Place};
use serde::{Deserialize, Serialize};

use crate::format::object_keys;
use crate::push::{Outcome, Report};

const NAME: &str = "summary.json";
const SESSION: &str = "session";
/// The most paths in [`Summary::gone`].
const GONE: usize = 50;

/// Counts and last events since the queue was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Summary {
    /// Paths pushed.
    pub pushed: u64,
    /// Bytes sent for them.
    pub sent_bytes: u64,
    /// Queued paths that the configuration excluded.
    pub excluded: u64,
    /// Paths that the agent has let go because of `max-pinned`: a garbage collection may delete them.
    pub released: u64,
    /// When a path was last pushed or found in the bucket, in seconds since 1970.
    pub last_success: Option<u64>,
    /// The last error that kept everything from being pushed; `None` after a success.
    pub last_error: Option<String>,
    /// The latest paths that the store had deleted before they could be pushed.
    pub gone: Vec<Gone>,
}

/// A path that the store had deleted before it could be pushed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Gone {
    /// The path.
    pub path: String,
    /// When the agent noticed, in seconds since 1970.
    pub at: u64,
}

/// Records the id of the agent's session with the bucket. Returns the id that was recorded before. When the record cannot
/// be written, the unfinished uploads of a killed agent stay in the bucket for longer.
pub(super) fn note_session(layout: &Layout, id: &str) -> Option<String> {
    let former = layout.read(Place::State, SESSION).ok().flatten();
    let _ = layout.write(Place::State, Place::State, SESSION, format!("{id}\n").as_bytes());
    former.and_then(|(text, _)| Some(String::from_utf8(text).ok()?.trim().to_owned())).filter(|id| is_id(id))
}

/// Whether the text of the file is an id: it becomes part of an object's key.
fn is_id(text: &str) -> bool {
    object_keys::lease_id(&object_keys::lease(text)).is_some()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Summary {
    /// Reads the summary; empty when the file is absent or unreadable.
    pub fn read(layout: &Layout) -> Self {
        let text = layout.read(Place::State, NAME).ok().flatten();
        text.and_then(|(bytes, _)| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Writes the summary. A failure loses only this record.
    pub fn write(&self, layout: &Layout) {
        if let Ok(text) = serde_json::to_vec_pretty(self) {
            let _ = layout.write(Place::State, Place::State, NAME, &text);
        }
    }

    /// Counts the paths of a push's report at the time `at`, in seconds since 1970.
    pub(super) fn note_report(&mut self, report: &Report, at: u64) {
        let is_pushed = |outcome: &&Outcome| matches!(outcome, Outcome::Pushed { .. });
        self.pushed += report.outcomes.values().filter(is_pushed).count() as u64;
        self.sent_bytes += report.bytes().1;
        self.last_error = None;
        if report.outcomes.values().any(Outcome::is_available) {
            self.last_success = Some(at);
        }
    }

    /// Records a path that the store has deleted.
    pub fn note_gone(&mut self, path: String, at: u64) {
        self.gone.push(Gone { path, at });
        let surplus = self.gone.len().saturating_sub(GONE);
        self.gone.drain(..surplus);
    }
}
