//! What goes if paths cannot be mended, without I/O: they and all that refers to them, so that clients build instead of
//! failing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

use crate::upkeep::inventory::{Catalog, PathId, PathSet, Reference};

/// What taking back would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakeBack {
    /// The paths that go, each after all that refers to it.
    pub go: Vec<PathId>,
    /// The paths that stay although clients cannot take them, with the reasons.
    pub stay: Vec<(PathId, String)>,
}

/// What has to go when the paths with these hash parts, which are in the bucket or are missing, cannot be mended. A path whose
/// narinfo has a signature of a key other than `adopt` is somebody else's: it stays, and so does what it refers to.
pub fn take_back(catalog: &Catalog, left: &HashSet<[u8; 20]>, adopt: &[String]) -> TakeBack {
    let broken = above(catalog, left);
    let mut stays: BTreeMap<PathId, String> = BTreeMap::new();
    for id in broken.iter() {
        if let Some(signer) = catalog.signers(id).iter().find(|signer| !adopt.contains(signer)) {
            let signer = signer.escape_debug();
            stays.insert(id, format!("`{signer}` has signed it; `--adopt {signer}` takes it back, too"));
        }
    }
    // A path may go only after all that refers to it.
    let mut next: Vec<PathId> = stays.keys().copied().collect();
    while let Some(id) = next.pop() {
        for below in catalog.present_references(id).filter(|below| broken.contains(*below)) {
            if let Entry::Vacant(place) = stays.entry(below) {
                place.insert(format!("`{}`, which stays, refers to it", catalog.basename(id)));
                next.push(below);
            }
        }
    }
    let go = references_first(catalog, &broken, &stays).into_iter().rev().collect();
    TakeBack { go, stay: stays.into_iter().collect() }
}

/// The paths with these hash parts that are in the bucket, the paths that refer to the others, and all above them.
pub(super) fn above(catalog: &Catalog, digests: &HashSet<[u8; 20]>) -> PathSet {
    let absent: HashSet<_> = catalog
        .absent_ids()
        .filter(|id| catalog.absent_path(*id).is_some_and(|path| digests.contains(path.digest())))
        .collect();
    let is_broken = |id: &PathId| {
        digests.contains(catalog.digest(*id))
            || (!absent.is_empty()
                && catalog
                    .references(*id)
                    .any(|reference| matches!(reference, Reference::Absent(id) if absent.contains(&id))))
    };
    let broken: Vec<_> = catalog.ids().filter(is_broken).collect();
    catalog.referrers().above(&broken)
}

/// The broken paths that do not stay, each after its references.
fn references_first(catalog: &Catalog, broken: &PathSet, stays: &BTreeMap<PathId, String>) -> Vec<PathId> {
    let goes = |id: PathId| broken.contains(id) && !stays.contains_key(&id);
    let (mut begun, mut done) = (PathSet::new(catalog.size()), PathSet::new(catalog.size()));
    let mut order = Vec::new();
    for start in broken.iter().filter(|id| goes(*id)) {
        let mut open = vec![start];
        while let Some(id) = open.last().copied() {
            if begun.insert(id) {
                open.extend(
                    catalog.present_references(id).filter(|below| goes(*below) && !begun.contains(*below)),
                );
                continue;
            }
            open.pop();
            if done.insert(id) {
                order.push(id);
            }
        }
    }
    order
}
