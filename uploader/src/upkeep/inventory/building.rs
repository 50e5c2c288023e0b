//! Builds the catalog: the listing first, then the narinfos in any order.

use std::collections::HashMap;

use nix_derivation::nixbase32;

use super::catalog::{Absent, Catalog, NONE, PathFault, PathId, Row};
use super::objects::{Listed, Object};
use super::places::Places;
use super::records::{Path, Record};
use crate::bucket::ObjectMeta;

/// A catalog in the making.
#[derive(Debug, Default)]
pub(super) struct Building {
    pub(super) catalog: Catalog,
    /// The numbers of absent paths, of derivers, of signers, and of NARs that are not in the listing.
    absent: HashMap<[u8; 20], u32>,
    derivers: HashMap<[u8; 20], u32>,
    signers: HashMap<Vec<String>, u32>,
    later: HashMap<String, u32>,
    /// The NARs that narinfos name and that the listing does not have, or with another size.
    pub(super) doubtful: HashMap<PathId, Record>,
}

impl Building {
    /// A catalog with what the listing shows.
    pub(super) fn new(listed: Listed) -> Self {
        let row = |(digest, object)| Row {
            digest,
            object,
            name: NONE,
            nar: NONE,
            nar_hash: [0; 32],
            nar_size: 0,
            file_size: 0,
            file_hash: [0; 32],
            label: 0,
            references: (0, 0),
            deriver: NONE,
            signers: NONE,
            fault: NONE,
            is_gone: false,
        };
        let places = Places::of(listed.narinfos.iter().map(|(digest, _)| digest));
        let rows = listed.narinfos.into_iter().map(row).collect();
        let catalog =
            Catalog { rows, places, nars: listed.nars, others: listed.others, ..Catalog::default() };
        Self { catalog, ..Self::default() }
    }

    /// Fills in what a narinfo says. A later record of the same path counts.
    pub(super) fn fill(&mut self, id: PathId, record: Record) {
        let references: Vec<_> = record.references.iter().map(|path| self.reference(path)).collect();
        let catalog = &mut self.catalog;
        let start = catalog.references.len() as u32;
        catalog.references.extend(&references);
        let name = if record.name.is_empty() { NONE } else { catalog.names.push(&record.name) };
        let deriver = record.deriver.as_ref().map_or(NONE, |(digest, name)| {
            let new = || catalog.derivers.push(&format!("{}-{name}", nixbase32::encode(digest)));
            *self.derivers.entry(*digest).or_insert_with(new)
        });
        let signers = *self.signers.entry(record.signers.clone()).or_insert_with(|| {
            catalog.signers.push(record.signers.clone());
            (catalog.signers.len() - 1) as u32
        });
        catalog.unfit_urls.extend(record.unfit_url.clone());
        let fault = record.fault().map(PathFault::Narinfo);
        let fault = fault.map_or(NONE, |fault| push_fault(&mut catalog.faults, fault));
        let row = &mut catalog.rows[id.0 as usize];
        row.name = name;
        row.references = (start, references.len() as u32);
        (row.deriver, row.signers, row.fault) = (deriver, signers, fault);
        self.fill_nar(id, record);
    }

    /// Fills in what a narinfo says of its NAR.
    fn fill_nar(&mut self, id: PathId, record: Record) {
        let row = &mut self.catalog.rows[id.0 as usize];
        row.nar = NONE;
        self.doubtful.remove(&id);
        let Some(nar) = &record.nar else { return };
        row.nar_hash = nar.nar_hash;
        row.nar_size = nar.nar_size;
        row.file_size = nar.file_size.unwrap_or(0);
        row.file_hash = nar.file_hash.unwrap_or_default();
        row.label = nar.label;
        let found = self.later.get(&nar.key).copied().or_else(|| self.catalog.nars.find(&nar.key));
        // Other tools may put NARs beside the narinfos.
        let found = found.or_else(|| self.adopt(&nar.key));
        let row = &mut self.catalog.rows[id.0 as usize];
        if let Some(number) = found {
            row.nar = number;
            if nar.named().fits(self.catalog.nars.get(number).1.size) {
                return;
            }
        }
        self.doubtful.insert(id, record);
    }

    /// Counts an object of another kind among the NARs, because a narinfo names it.
    fn adopt(&mut self, key: &str) -> Option<u32> {
        let (_, object) = self.catalog.others.get(self.catalog.others.find(key)?);
        let object = *object;
        Some(self.add_nar(key, object))
    }

    fn add_nar(&mut self, key: &str, object: Object) -> u32 {
        let known = self.later.get(key).copied().or_else(|| self.catalog.nars.find(key));
        if let Some(number) = known {
            self.catalog.nars.replace(number, object);
            return number;
        }
        let number = self.catalog.nars.push(key, object);
        self.later.insert(key.to_owned(), number);
        number
    }

    /// Adds a NAR that the listing does not have, or has with another size.
    pub(super) fn found_nar(&mut self, id: PathId, meta: &ObjectMeta) {
        self.add_nar(&meta.key, Object::new(meta));
        if let Some(record) = self.doubtful.remove(&id) {
            self.fill_nar(id, record);
        }
    }

    /// The object of a narinfo that was read, if it is not the object of the listing.
    pub(super) fn read_as(&mut self, id: PathId, object: Object) {
        self.catalog.rows[id.0 as usize].object = object;
    }

    /// Notes that a narinfo was removed while the bucket was read.
    pub(super) fn gone(&mut self, id: PathId) {
        let row = &mut self.catalog.rows[id.0 as usize];
        (row.is_gone, row.references, row.nar) = (true, (0, 0), NONE);
        self.doubtful.remove(&id);
    }

    /// Notes that the narinfo of an absent path was written while the bucket was read.
    pub(super) fn appeared(&mut self, number: u32) {
        self.catalog.absent[number as usize].has_appeared = true;
    }

    /// The number of a referenced path.
    fn reference(&mut self, (digest, name): &Path) -> u32 {
        let rows = self.catalog.rows.len() as u32;
        if let Some(number) = self.catalog.place(digest) {
            return number as u32;
        }
        let absent = &mut self.catalog.absent;
        rows + *self.absent.entry(*digest).or_insert_with(|| {
            absent.push(Absent { digest: *digest, name: name.clone(), has_appeared: false });
            (absent.len() - 1) as u32
        })
    }

    /// The catalog. What is still doubtful is a fault.
    pub(super) fn finish(mut self) -> Catalog {
        for (id, record) in std::mem::take(&mut self.doubtful) {
            let Some(nar) = record.nar else { continue };
            let row = &self.catalog.rows[id.0 as usize];
            // The fault of the narinfo itself says more.
            if row.fault != NONE {
                continue;
            }
            let fault = match row.nar {
                NONE => PathFault::NoNar(nar.key),
                number => {
                    let size = self.catalog.nars.get(number).1.size;
                    let text = nar.named().fault(Some(size));
                    PathFault::NarSize(nar.key, text)
                }
            };
            let number = push_fault(&mut self.catalog.faults, fault);
            self.catalog.rows[id.0 as usize].fault = number;
        }
        self.catalog.references.shrink_to_fit();
        self.catalog
    }
}

fn push_fault(faults: &mut Vec<PathFault>, fault: PathFault) -> u32 {
    faults.push(fault);
    (faults.len() - 1) as u32
}
