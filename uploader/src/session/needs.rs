//! What a session has recorded as needed. `format/need.rs` describes the records.
//!
//! A push that finds its roots in the bucket records that they are needed, before it reports them as present: nothing else
//! tells a collection. A root that the push has written needs no record: its narinfo is young, and tells as much.
//!
//! The records are written always, also in a bucket without pins and rules: nobody knows which rules a later collection will
//! follow. They cost one small PUT for a push that finds new roots in the bucket, and nothing for one that repeats what the
//! session has recorded or written within [`REPEAT`].

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use larder_hook::fault::time_divisor;
use nix_derivation::StorePath;

use super::names::HashPart;
use crate::base::clock::Moment;
use crate::base::lock::lock;
use crate::format::need::{self, Need};

/// A root is recorded again after this time. A collection lets nothing go that was needed within the last 24 hours. So a path
/// that a push reports as present stays for the other half of that time at least, whatever the rules say.
const REPEAT: Duration = Duration::from_secs(12 * 3600);

/// The roots that the session has recorded or written.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// When each was last recorded or written.
    known: Mutex<HashMap<HashPart, Moment>>,
    /// The number of the next record.
    next: AtomicU32,
}

/// A record to write.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) body: Vec<u8>,
    pub(super) paths: Vec<HashPart>,
}

impl Needs {
    /// The records of those roots that nothing tells of. `session` is the id of the session.
    pub(super) fn due<'a>(&self, session: &str, roots: impl Iterator<Item = &'a StorePath>) -> Vec<Record> {
        self.due_after(REPEAT / time_divisor(), session, roots)
    }

    fn due_after<'a>(
        &self,
        repeat: Duration,
        session: &str,
        roots: impl Iterator<Item = &'a StorePath>,
    ) -> Vec<Record> {
        let mut known = lock(&self.known);
        known.retain(|_, at| at.elapsed() < repeat);
        let due = roots.filter(|root| !known.contains_key(root.digest()));
        let record = |need: Need| Record {
            key: need::key(session, self.next.fetch_add(1, Ordering::Relaxed)),
            body: need.to_json(),
            paths: need.paths().map(|path| *path.digest()).collect(),
        };
        Need::of(due.map(|root| root.to_basename().to_string())).into_iter().map(record).collect()
    }

    /// Notes that these roots were recorded or written at this time or later.
    pub(super) fn note<'a>(&self, roots: impl IntoIterator<Item = &'a HashPart>, at: Moment) {
        lock(&self.known).extend(roots.into_iter().map(|root| (*root, at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::need::NeedKey;
    use crate::format::object_keys;

    fn path(number: u8) -> StorePath {
        StorePath::from_parts([number; 20], "path").unwrap()
    }

    #[test]
    fn what_is_recorded_or_written_is_not_recorded_again_for_a_while() {
        let (needs, id) = (Needs::default(), object_keys::new_writer());
        let roots = [path(1), path(2), path(3)];
        needs.note([&[3; 20]], Moment::now());
        let records = needs.due(&id, roots.iter());
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].paths, [[1; 20], [2; 20]]);
        assert_eq!(Need::parse(&records[0].body).unwrap().paths().count(), 2);
        // A record that was not written is due again, under another key: the first may still arrive.
        let again = needs.due(&id, roots.iter());
        assert_eq!(NeedKey::parse(&again[0].key), Some(NeedKey::Session(&id, 1)));
        needs.note(&again[0].paths, Moment::now());
        assert!(needs.due(&id, roots.iter()).is_empty());
        assert_eq!(needs.due_after(Duration::ZERO, &id, roots.iter())[0].paths.len(), 3);
    }
}
