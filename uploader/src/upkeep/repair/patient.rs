//! The paths that a repair mends, without I/O.

use std::collections::{BTreeMap, HashSet};

use nix_derivation::{StorePath, nixbase32};

use crate::format::object_keys::HASH_PART;
use crate::upkeep::inventory::{AbsentId, Catalog};
use crate::upkeep::verify::{Fault, Kind};

/// A path that clients cannot take, or not without trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patient {
    /// The hash part, 20 bytes.
    pub digest: [u8; 20],
    /// The path, if the bucket tells its name.
    pub path: Option<StorePath>,
    /// The worst fault.
    pub kind: Kind,
    /// The fault for people; may be empty.
    pub text: String,
}

impl Patient {
    /// `<hash>-<name>`, or only the hash part.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| nixbase32::encode(&self.digest), StorePath::to_basename)
    }

    /// Whether the narinfo is missing.
    pub fn is_absent(&self) -> bool {
        self.kind == Kind::ReferenceMissing
    }
}

/// The paths behind the faults, each once, with its worst fault. Paths that narinfos refer to and that are `missing` are among
/// them; the paths that refer to them are not.
pub fn patients(catalog: &Catalog, faults: &[Fault], missing: &HashSet<AbsentId>) -> Vec<Patient> {
    let mut found: BTreeMap<[u8; 20], Patient> = BTreeMap::new();
    let mut add = |patient: Patient| match found.get(&patient.digest) {
        Some(known) if known.kind <= patient.kind => {}
        _ => drop(found.insert(patient.digest, patient)),
    };
    for fault in faults.iter().filter(|fault| is_of_a_narinfo(fault.kind)) {
        let Some(digest) = digest(&fault.object) else { continue };
        let path = catalog.find(&digest).and_then(|id| catalog.path(id));
        add(Patient { digest, path, kind: fault.kind, text: fault.text.clone() });
    }
    for path in missing.iter().filter_map(|id| catalog.absent_path(*id)) {
        let text = "paths in the bucket refer to it, and it is neither there nor upstream's".to_owned();
        add(Patient { digest: *path.digest(), path: Some(path), kind: Kind::ReferenceMissing, text });
    }
    found.into_values().collect()
}

/// Whether the object of a fault is a path whose narinfo is in the bucket, and which a repair may mend.
fn is_of_a_narinfo(kind: Kind) -> bool {
    matches!(kind, Kind::Narinfo(_) | Kind::NarMissing | Kind::NarSize | Kind::NarContents | Kind::FileHash)
}

fn digest(object: &str) -> Option<[u8; 20]> {
    nixbase32::decode(object.get(..HASH_PART)?.as_bytes()).ok()?.try_into().ok()
}
