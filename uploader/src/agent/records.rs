//! What the agent remembers: `state/summary.json` for `larder status`, and its session with the bucket in
//! `state/session`. Nothing depends on them.

use larder_hook::queue::{Layout, Place};
use serde::{Deserialize, Serialize};

use crate::format::object_keys;

const NAME: &str = "summary.json";
const SESSION: &str = "session";
/// So many of the paths that were gone are kept by name.
const GONE: usize = 50;

/// Counts and last events since the queue was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Summary {
    /// Paths pushed.
    pub pushed: u64,
    /// Bytes sent for them.
    pub sent_bytes: u64,
    /// Queued paths that the configuration keeps out.
    pub excluded: u64,
    /// When something was last pushed or found to be there, in seconds since 1970.
    pub last_success: Option<u64>,
    /// What last kept everything from being pushed; empty after a success.
    pub last_error: Option<String>,
    /// The latest paths that were gone from the store before they could be pushed.
    pub gone: Vec<Gone>,
}

/// A path that was gone from the store before it could be pushed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Gone {
    /// The path.
    pub path: String,
    /// When that was noticed, in seconds since 1970.
    pub at: u64,
}

/// Notes the id of the agent's session with the bucket; hands back the one that was noted before, which is over. Where
/// it cannot be written, what a killed agent leaves in the bucket stays there for longer.
pub(super) fn note_session(layout: &Layout, id: &str) -> Option<String> {
    let former = layout.read(Place::State, SESSION).ok().flatten();
    let _ = layout.write(Place::State, Place::State, SESSION, format!("{id}\n").as_bytes());
    former.and_then(|(text, _)| Some(String::from_utf8(text).ok()?.trim().to_owned())).filter(|id| is_id(id))
}

/// What stands in the file becomes part of a key.
fn is_id(text: &str) -> bool {
    object_keys::lease_id(&object_keys::lease(text)).is_some()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Summary {
    /// Reads it; an absent or unreadable one is empty.
    pub fn read(layout: &Layout) -> Self {
        let text = layout.read(Place::State, NAME).ok().flatten();
        text.and_then(|(bytes, _)| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Writes it; a failure costs nothing but these records.
    pub fn write(&self, layout: &Layout) {
        if let Ok(text) = serde_json::to_vec_pretty(self) {
            let _ = layout.write(Place::State, Place::State, NAME, &text);
        }
    }

    /// Records a path that is gone.
    pub fn note_gone(&mut self, path: String, at: u64) {
        self.gone.push(Gone { path, at });
        let surplus = self.gone.len().saturating_sub(GONE);
        self.gone.drain(..surplus);
    }
}
