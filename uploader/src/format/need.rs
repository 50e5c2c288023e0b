//! Needs: objects in a bucket that name paths which pushes asked for and found present.
//!
//! A session writes a need before it reports such paths as present. It names only roots: what they refer to is needed with
//! them. A need is one object, `larder/needs/<session>-<number>.json`, which is written once and never changed. In time,
//! [`compact`] replaces many of them by few, `larder/needs/compacted-<id>.json`. The server tells when an object was written,
//! and a compacted need tells how long before that its paths were needed; no clock of a writer counts. If several objects
//! name a path, the one that tells the latest time applies. So duplicates are harmless.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use nix_derivation::StorePath;
use serde::{Deserialize, Serialize};

use super::object_keys;

/// The prefix of the keys of needs.
pub const NEEDS: &str = "larder/needs/";
/// The most paths in one object. With the longest names, it is still smaller than `MAX_SMALL`.
pub const MOST_PATHS: usize = 10_000;
/// Only older objects are compacted. An object that is written during a reading of all needs then stands until that reading
/// has ended, see `read_needs`.
pub const COMPACTED_AGE: Duration = Duration::from_secs(24 * 3600);

/// Servers tell times in whole seconds. So an age may be a second too large, and two ages are added.
const ROUNDING: u64 = 2;
const COMPACTED: &str = "compacted-";
const SUFFIX: &str = ".json";

/// What the key of a need says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedKey<'k> {
    /// A need that the session with this id has written, with its number within the session.
    Session(&'k str, u32),
    /// A compacted need, with its id.
    Compacted(&'k str),
}

impl<'k> NeedKey<'k> {
    /// Reads a key; `None` for every other key.
    pub fn parse(key: &'k str) -> Option<Self> {
        let name = key.strip_prefix(NEEDS)?.strip_suffix(SUFFIX)?;
        if let Some(id) = name.strip_prefix(COMPACTED) {
            return is_id(id).then_some(Self::Compacted(id));
        }
        let (session, text) = name.split_once('-')?;
        let number: u32 = text.parse().ok()?;
        (is_id(session) && number.to_string() == text).then_some(Self::Session(session, number))
    }
}

fn is_id(text: &str) -> bool {
    object_keys::lease_id(&object_keys::lease(text)) == Some(text)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The key of a session's need with this number.
pub fn key(session: &str, number: u32) -> String {
    format!("{NEEDS}{session}-{number}{SUFFIX}")
}

/// Makes a key for a compacted need. No other object has the same key.
pub fn new_compacted() -> String {
    format!("{NEEDS}{COMPACTED}{}{SUFFIX}", object_keys::new_writer())
}

/// The contents of a need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// The paths, by the time when they were needed.
    pub needed: Vec<Group>,
}

/// Paths that were needed at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The time from the need to the writing of the object, in seconds. The need may be earlier, never later.
    pub seconds_before: u64,
    /// The base names of the paths, `<hash>-<name>`.
    pub paths: Vec<String>,
}

impl Need {
    /// The need of paths that are needed now, as few objects as can hold them. Each path is named once.
    pub fn of(paths: impl IntoIterator<Item = String>) -> Vec<Self> {
        let mut paths: Vec<_> = paths.into_iter().collect();
        paths.sort_unstable();
        paths.dedup();
        let need =
            |paths: &[String]| Self { needed: vec![Group { seconds_before: 0, paths: paths.to_vec() }] };
        paths.chunks(MOST_PATHS).map(need).collect()
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = StorePath> {
        let names = self.needed.iter().flat_map(|group| &group.paths);
        names.filter_map(|name| StorePath::from_basename(name.as_bytes()).ok())
    }

    /// The contents of the object.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Reads the contents of the object. The error says why it is no need that this version of larder understands.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let need: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let mut names = need.needed.iter().flat_map(|group| &group.paths);
        if let Some(path) = names.find(|path| StorePath::from_basename(path.as_bytes()).is_err()) {
            return Err(format!("`{}` is no store path", path.escape_debug()));
        }
        match need.needed.iter().map(|group| group.paths.len()).sum::<usize>() {
            count if count > MOST_PATHS => Err(format!("it names {count} paths, more than {MOST_PATHS}")),
            _ => Ok(need),
        }
    }
}

/// A need as it stands in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingNeed {
    /// The key of the object.
    pub key: String,
    /// The time since it was written, by the clock of the bucket; `None` if the server does not tell.
    pub age: Option<Duration>,
    /// What it says.
    pub need: Need,
}

impl StandingNeed {
    /// The paths, each with the time since it was needed. Where the age of the object is unknown, it may have been written
    /// just now.
    pub fn paths(&self) -> impl Iterator<Item = (StorePath, Duration)> {
        self.names().filter_map(|(name, ago)| Some((StorePath::from_basename(name.as_bytes()).ok()?, ago)))
    }

    fn names(&self) -> impl Iterator<Item = (&String, Duration)> {
        let age = self.age.unwrap_or_default();
        self.need.needed.iter().flat_map(move |group| {
            let ago = age.saturating_add(Duration::from_secs(group.seconds_before));
            group.paths.iter().map(move |path| (path, ago))
        })
    }
}

/// What a compaction does: all of `written` first, and when all of it stands, `deleted`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// The contents of new objects.
    pub written: Vec<Need>,
    /// The keys of the objects whose paths are in the new ones.
    pub deleted: Vec<String>,
}

/// Puts all needs of at least this age, [`COMPACTED_AGE`] but for tests, together, each path with its latest time. The times are counted from the
/// listing that told the ages; the new objects are written later, so that no path looks older than it is. If a compaction
/// ends between any two of its steps, each path is in an old object or in a new one, or in both. `keep` says which paths
/// still matter, by their hash parts: a need for a path that the bucket does not have is of no use.
///
/// Nothing is done for a single compacted need.
pub fn compact(
    standing: &[StandingNeed],
    least_age: Duration,
    keep: &dyn Fn(&[u8; 20]) -> bool,
) -> Compaction {
    let is_old = |need: &&StandingNeed| need.age.is_some_and(|age| age >= least_age);
    let old: Vec<_> = standing.iter().filter(is_old).collect();
    let is_compacted =
        |need: &&StandingNeed| matches!(NeedKey::parse(&need.key), Some(NeedKey::Compacted(_)));
    if old.len() < 2 && old.iter().all(is_compacted) {
        return Compaction::default();
    }
    let mut latest: HashMap<&str, u64> = HashMap::new();
    for (name, ago) in old.iter().flat_map(|need| need.names()) {
        let seconds = latest.entry(name).or_insert(u64::MAX);
        *seconds = ago.as_secs().saturating_sub(ROUNDING).min(*seconds);
    }
    let kept = |name: &str| StorePath::from_basename(name.as_bytes()).is_ok_and(|path| keep(path.digest()));
    let mut sorted: Vec<_> = latest.into_iter().filter(|(name, _)| kept(name)).collect();
    sorted.sort_unstable_by_key(|(name, seconds)| (*seconds, *name));
    let written = sorted.chunks(MOST_PATHS).map(grouped).collect();
    Compaction { written, deleted: old.into_iter().map(|need| need.key.clone()).collect() }
}

fn grouped(paths: &[(&str, u64)]) -> Need {
    let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for (name, seconds) in paths {
        groups.entry(*seconds).or_default().push((*name).to_owned());
    }
    let group = |(seconds_before, paths)| Group { seconds_before, paths };
    Need { needed: groups.into_iter().map(group).collect() }
}

#[cfg(test)]
#[path = "need_tests.rs"]
mod tests;
