//! When paths were last needed.

use std::collections::HashMap;
use std::time::Duration;

use crate::format::need::StandingNeed;
use crate::upkeep::inventory::{Catalog, PathId};

/// How a path was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// Its narinfo was written.
    Pushed,
    /// A push asked for it, and found it present.
    Asked,
    /// A client downloaded it.
    Downloaded,
}

/// The latest known needs of paths, apart from the ages of their narinfos.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    by_digest: HashMap<[u8; 20], (u32, Use)>,
    by_nar: HashMap<String, (u32, Use)>,
}

impl Uses {
    /// A path was needed this long ago.
    pub fn add(&mut self, digest: [u8; 20], ago: Duration, how: Use) {
        let need = (seconds(ago), how);
        let latest = self.by_digest.entry(digest).or_insert(need);
        *latest = need.min(*latest);
    }

    /// A push asked for the paths of this need.
    pub fn add_need(&mut self, need: &StandingNeed) {
        need.paths().for_each(|(path, ago)| self.add(*path.digest(), ago, Use::Asked));
    }

    /// The NAR with this key was needed this long ago, and with it each path that names it.
    pub fn add_nar(&mut self, key: &str, ago: Duration, how: Use) {
        let need = (seconds(ago), how);
        let latest = self.by_nar.entry(key.to_owned()).or_insert(need);
        *latest = need.min(*latest);
    }

    /// The seconds since the path was last needed, and how; `None` if nobody knows, because the server does not tell the age
    /// of the narinfo.
    pub(super) fn latest(&self, catalog: &Catalog, id: PathId) -> Option<(u32, Use)> {
        let pushed = (seconds(catalog.age(id)?), Use::Pushed);
        let of_path = self.by_digest.get(catalog.digest(id)).copied();
        let of_nar = match self.by_nar.is_empty() {
            true => None,
            false => catalog.nar(id).and_then(|nar| self.by_nar.get(catalog.nar_object(nar).0).copied()),
        };
        [of_path, of_nar].into_iter().flatten().fold(pushed, Ord::min).into()
    }
}

/// Full seconds. More than 136 years count as 136 years.
pub(super) fn seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}
