//! What a collection may take, from the inventory alone.

use std::collections::{BTreeSet, HashSet};

use nix_derivation::nixbase32;

use crate::bucket::is_key;
use crate::format::object_kind::ObjectKind;
use crate::protocol::look::levels;
use crate::protocol::rules::Rules;
use crate::session::{HashPart, Paths};
use crate::upkeep::inventory::{Catalog, PathId, PathSet};

/// The most paths, and the most objects, of one collection. The rest is left to the next one.
pub(super) const MOST: usize = 100_000;
/// The endings of compressed build logs.
const ENDINGS: [&str; 5] = [".bz2", ".xz", ".zst", ".gz", ".br"];

/// What may go.
#[derive(Clone, Debug, Default)]
pub struct Garbage {
    /// The paths, with each path all its referrers.
    pub paths: Vec<PathId>,
    /// The keys of NARs and other objects that no narinfo has needed for long enough.
    pub objects: Vec<String>,
    /// The bytes of the narinfos, and of the NARs that nothing names when they are gone.
    pub bytes: u64,
    /// Whether more may go than one collection takes.
    pub is_partial: bool,
}

impl Garbage {
    /// The garbage of a bucket: `going` are the paths that nothing keeps, `orphans` the objects that may go.
    pub fn of(catalog: &Catalog, going: &PathSet, mut orphans: Vec<String>) -> Self {
        let is_partial = going.len() > MOST || orphans.len() > MOST;
        orphans.truncate(MOST);
        let paths = match going.len() > MOST {
            false => going.iter().collect(),
            true => first(catalog, going),
        };
        let mut garbage = Self { paths, objects: orphans, bytes: 0, is_partial };
        garbage.bytes = bytes(catalog, &garbage);
        garbage
    }

    /// Exactly these paths and objects.
    pub(super) fn exactly(catalog: &Catalog, paths: Vec<PathId>, objects: Vec<String>) -> Self {
        let mut garbage = Self { paths, objects, bytes: 0, is_partial: false };
        garbage.bytes = bytes(catalog, &garbage);
        garbage
    }

    /// Whether nothing may go.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.objects.is_empty()
    }

    /// The hash parts of the paths.
    pub fn digests(&self, catalog: &Catalog) -> Paths {
        self.paths.iter().map(|id| *catalog.digest(*id)).collect()
    }
}

/// As many of `going` as a collection takes: referrers first.
fn first(catalog: &Catalog, going: &PathSet) -> Vec<PathId> {
    let ids: BTreeSet<PathId> = going.iter().collect();
    let references = |id: &PathId| catalog.present_references(*id).collect();
    let levels = levels::<ByNumber>(&ids, references, Rules::ALL);
    let mut first = Vec::new();
    for level in levels {
        let room = MOST - first.len();
        if level.len() <= room {
            first.extend(level);
            continue;
        }
        // A level whose paths refer to each other goes as a whole, or later.
        let is_tangled = level.iter().any(|id| {
            catalog.present_references(*id).any(|reference| reference != *id && level.contains(&reference))
        });
        if !is_tangled || first.is_empty() {
            first.extend(level.into_iter().take(if is_tangled { usize::MAX } else { room }));
        }
        break;
    }
    first
}

/// Names for the order of deletion by numbers alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ByNumber;

impl crate::protocol::names::Names for ByNumber {
    type Collection = ();
    type Path = PathId;
    type Nar = ();
    type Paths = BTreeSet<PathId>;
    type Nars = BTreeSet<()>;
    type OpenPaths = Self::Paths;
    type OpenNars = Self::Nars;
}

fn bytes(catalog: &Catalog, garbage: &Garbage) -> u64 {
    let going = PathSet::of(catalog.size(), garbage.paths.iter().copied());
    let staying = catalog.ids().filter(|id| !going.contains(*id));
    let kept: HashSet<_> = staying.filter_map(|id| catalog.nar(id)).collect();
    let nars: HashSet<_> = garbage.paths.iter().filter_map(|id| catalog.nar(*id)).collect();
    let nars = nars.difference(&kept).map(|nar| catalog.nar_object(*nar).1.size);
    let narinfos = garbage.paths.iter().map(|id| catalog.narinfo(*id).size);
    let find = |key: &String| {
        let found = catalog.nars().find(key).map(|number| catalog.nars().get(number).1.size);
        found.or_else(|| catalog.others().find(key).map(|number| catalog.others().get(number).1.size))
    };
    let objects = garbage.objects.iter().filter_map(find);
    narinfos.chain(nars).chain(objects).fold(0, u64::saturating_add)
}

/// The keys of all NARs, listings, logs and realisations that no narinfo needs.
pub(super) fn orphans(catalog: &Catalog) -> BTreeSet<&str> {
    let mut named = vec![false; catalog.nars().len()];
    for nar in catalog.ids().filter_map(|id| catalog.nar(id)) {
        named[nar.0 as usize] = true;
    }
    let nars = catalog.nars().iter().zip(named).filter(|(_, named)| !named).map(|((key, _), _)| key);
    let derivers: HashSet<&str> = catalog.ids().filter_map(|id| catalog.deriver(id)).collect();
    let elsewhere: HashSet<&str> = catalog
        .nars()
        .iter()
        .map(|(key, _)| key)
        .filter(|key| ObjectKind::of(key) != ObjectKind::Nar)
        .collect();
    let others = catalog.others().iter().map(|(key, _)| key).filter(|key| match ObjectKind::of(key) {
        ObjectKind::Listing(hash) => digest(hash).is_some_and(|digest| catalog.find(&digest).is_none()),
        ObjectKind::Log(derivation) => {
            let plain = ENDINGS.iter().find_map(|ending| derivation.strip_suffix(ending));
            !derivers.contains(plain.unwrap_or(derivation))
        }
        ObjectKind::Realisation => catalog.is_orphaned_realisation(key),
        _ => false,
    });
    let others = others.filter(|key| !elsewhere.contains(key));
    // Some client may read a NAR that does not fit its narinfo.
    let others = others.chain(nars.filter(|key| !elsewhere.contains(key) && !catalog.is_unfit_nar(key)));
    // A key that larder cannot send, such as `nar/folder/`, would make each deletion fail.
    let can_go = |key: &&str| is_key(key);
    others.filter(can_go).collect()
}

fn digest(hash: &str) -> Option<HashPart> {
    nixbase32::decode(hash.as_bytes()).ok()?.try_into().ok()
}
