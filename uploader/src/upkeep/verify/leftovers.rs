//! Objects that nobody needs, without I/O.

use std::collections::HashSet;
use std::time::Duration;

use nix_derivation::nixbase32;

use super::fault::{Fault, Kind};
use crate::bucket::Unfinished;
use crate::format::object_keys;
use crate::format::object_kind::ObjectKind;
use crate::upkeep::inventory::{Catalog, Object, Realised};

/// The age from which an object that nobody names is left over. A writer puts a NAR before its narinfo, and a writer lives
/// at most this long after its last sign of life.
const YOUNG: Duration = Duration::from_secs(24 * 3600);

/// The endings of compressed build logs.
const ENDINGS: [&str; 5] = [".bz2", ".xz", ".zst", ".gz", ".br"];

/// The objects of a catalog that nobody needs, and the unfinished uploads of writers without a lease.
pub fn leftovers(catalog: &Catalog, unfinished: &[Unfinished]) -> Vec<Fault> {
    let mut found = orphan_nars(catalog);
    let named = Named::of(catalog);
    for (key, object) in catalog.others().iter() {
        if let Some(kind) = named.fault_of(catalog, key, object) {
            found.push(Fault::new(kind, key, "").wasting(object.size));
        }
    }
    let leases: HashSet<&str> = catalog
        .others()
        .iter()
        .filter_map(|(key, _)| object_keys::lease_id(key))
        .map(object_keys::writer)
        .collect();
    for upload in unfinished {
        // The uploads of other tools are theirs.
        if object_keys::nar_writer(&upload.key).is_some_and(|writer| !leases.contains(writer)) {
            found.push(Fault::new(Kind::UnfinishedUpload, &upload.key, ""));
        }
    }
    found
}

fn orphan_nars(catalog: &Catalog) -> Vec<Fault> {
    let mut named = vec![false; catalog.nars().len()];
    for nar in catalog.ids().filter_map(|id| catalog.nar(id)) {
        named[nar.0 as usize] = true;
    }
    let nars = catalog.nars().iter().zip(named);
    nars.filter(|((_, object), is_named)| !is_named && is_old(object))
        .map(|((key, object), _)| Fault::new(Kind::OrphanNar, key, "").wasting(object.size))
        .collect()
}

fn is_old(object: &Object) -> bool {
    object.age().is_some_and(|age| age > YOUNG)
}

/// What narinfos name.
struct Named<'c> {
    derivers: HashSet<&'c str>,
    /// The NARs that other tools have put elsewhere than below `nar/`.
    nars_elsewhere: HashSet<&'c str>,
}

impl<'c> Named<'c> {
    fn of(catalog: &'c Catalog) -> Self {
        let elsewhere = |key: &&str| ObjectKind::of(key) != ObjectKind::Nar;
        Self {
            derivers: catalog.ids().filter_map(|id| catalog.deriver(id)).collect(),
            nars_elsewhere: catalog.nars().iter().map(|(key, _)| key).filter(elsewhere).collect(),
        }
    }

    /// The fault of an object that is neither a narinfo nor below `nar/`.
    fn fault_of(&self, catalog: &Catalog, key: &str, object: &Object) -> Option<Kind> {
        let is_fault = match ObjectKind::of(key) {
            ObjectKind::Listing(hash) => {
                let digest = nixbase32::decode(hash.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
                let has_narinfo = digest.is_some_and(|digest| catalog.find(&digest).is_some());
                (is_old(object) && !has_narinfo).then_some(Kind::OrphanListing)
            }
            ObjectKind::Log(derivation) => {
                // Other tools may add the ending of a compression.
                let plain =
                    ENDINGS.iter().find_map(|ending| derivation.strip_suffix(ending)).unwrap_or(derivation);
                (is_old(object) && !self.derivers.contains(plain)).then_some(Kind::OrphanLog)
            }
            ObjectKind::Realisation => match catalog.realised().get(key) {
                Some(Realised::Unreadable) => Some(Kind::RealisationMalformed),
                _ => (is_old(object) && catalog.is_orphaned_realisation(key))
                    .then_some(Kind::OrphanRealisation),
            },
            ObjectKind::Own(_) => {
                (ObjectKind::is_of_a_session(key) && is_old(object)).then_some(Kind::DeadWriter)
            }
            ObjectKind::Unknown => Some(Kind::UnknownObject),
            ObjectKind::CacheInfo
            | ObjectKind::Marker
            | ObjectKind::Narinfo(_)
            | ObjectKind::Nar
            | ObjectKind::DebugInfo => None,
        };
        is_fault.filter(|_| !self.nars_elsewhere.contains(key))
    }
}
