//! The faults of the paths in a catalog, without I/O.

use std::collections::HashSet;

use nix_derivation::nixbase32;

use super::fault::{Fault, Kind, Severity};
use crate::format::object_keys::HASH_PART;
use crate::upkeep::inventory::{AbsentId, Catalog, PathFault, PathId, PathSet, Reference};

/// The number of faults for each of which the affected paths are counted.
const MOST_COUNTED: usize = 1000;

/// What is wrong with the paths of a catalog.
#[derive(Debug, Default)]
pub struct Structure {
    /// The faults.
    pub faults: Vec<Fault>,
    /// The paths with faults of their own.
    pub faulty: Vec<PathId>,
    /// The number of paths, besides the faulty ones, that refer to a faulty path, directly or not.
    pub affected: usize,
    /// The paths that narinfos refer to, that the bucket does not have, and of which nothing proves that they are missing:
    /// they should be upstream's.
    pub left_out: Vec<AbsentId>,
}

/// Judges the paths. The paths `missing` are known to be neither in the bucket nor upstream's.
pub fn structure(catalog: &Catalog, missing: &HashSet<AbsentId>) -> Structure {
    let mut found = Structure {
        left_out: catalog.absent_ids().filter(|id| !missing.contains(id)).collect(),
        ..Structure::default()
    };
    for id in catalog.ids() {
        let lacks = |reference: &Reference| matches!(reference, Reference::Absent(absent) if missing.contains(absent));
        if let Some(fault) = catalog.fault(id) {
            found.faults.push(of_path(catalog, id, fault));
        } else if let Some(Reference::Absent(absent)) = catalog.references(id).find(lacks) {
            let reference = catalog.absent_path(absent).map(|path| path.to_basename()).unwrap_or_default();
            let text = format!("it refers to `{reference}`, which is neither in the bucket nor upstream's");
            found.faults.push(Fault::new(Kind::ReferenceMissing, catalog.basename(id), text));
        } else {
            continue;
        }
        found.faulty.push(id);
    }
    found.affected = count_affected(catalog, &mut found.faults);
    found
}

fn of_path(catalog: &Catalog, id: PathId, fault: &PathFault) -> Fault {
    let kind = match fault {
        PathFault::Narinfo(fault) => Kind::Narinfo(fault.kind),
        PathFault::NoNar(_) => Kind::NarMissing,
        PathFault::NarSize(..) => Kind::NarSize,
    };
    Fault::new(kind, catalog.basename(id), fault.text())
}

/// Counts the paths that refer to a path at fault, directly or not: for each fault, and, without the paths at fault, for all
/// together.
pub fn count_affected(catalog: &Catalog, faults: &mut [Fault]) -> usize {
    let of_path = |fault: &Fault| {
        let hash = fault.object.get(..HASH_PART).filter(|_| fault.kind.severity() == Severity::Clients)?;
        catalog.find(&nixbase32::decode(hash.as_bytes()).ok()?.try_into().ok()?)
    };
    let faulty: Vec<PathId> = faults.iter().filter_map(of_path).collect();
    if faulty.is_empty() {
        return 0;
    }
    let referrers = catalog.referrers();
    let with_paths = faults.iter_mut().filter_map(|fault| of_path(fault).map(|id| (fault, id)));
    for (fault, id) in with_paths.take(MOST_COUNTED) {
        fault.affected = referrers.above(&[id]).len() - 1;
    }
    let set = PathSet::of(catalog.size(), faulty.iter().copied());
    referrers.above(&faulty).iter().filter(|id| !set.contains(*id)).count()
}
