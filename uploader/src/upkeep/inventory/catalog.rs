//! The tables of a bucket's paths, NARs and other objects.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use nix_derivation::{StorePath, nixbase32};

use super::arena::Arena;
use super::objects::{Object, Objects};
use super::places::Places;
use super::realised::Realised;
use crate::format::named_nar::{NamedNar, label_named};
use crate::format::summary::NarinfoFault;

/// The mark of "none" in a table of numbers.
pub(super) const NONE: u32 = u32::MAX;

/// The number of a path whose narinfo is in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// The number of a NAR object in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarId(pub u32);

/// The number of a path that narinfos refer to, and whose narinfo is not in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsentId(pub u32);

/// What a narinfo refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A path whose narinfo is in the bucket.
    Present(PathId),
    /// A path whose narinfo is not in the bucket: upstream has it, or it is missing.
    Absent(AbsentId),
}

/// Why no client can take a path, without its references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// The narinfo itself.
    Narinfo(NarinfoFault),
    /// The NAR is not in the bucket; its key.
    NoNar(String),
    /// The NAR has a size that does not fit; its key, and the fault for people.
    NarSize(String, String),
}

impl PathFault {
    /// The fault for people: "its NAR `…` is not in the bucket".
    pub fn text(&self) -> String {
        match self {
            Self::Narinfo(fault) => fault.text.clone(),
            Self::NoNar(key) => format!("its NAR `{key}` is not in the bucket"),
            Self::NarSize(_, text) => text.clone(),
        }
    }
}

/// One narinfo.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) digest: [u8; 20],
    pub(super) object: Object,
    /// The number of the path's name; `NONE` if the narinfo does not tell it.
    pub(super) name: u32,
    pub(super) nar: u32,
    pub(super) nar_hash: [u8; 32],
    pub(super) nar_size: u64,
    /// The size of the object that the narinfo states; 0 for unknown.
    pub(super) file_size: u64,
    /// The SHA-256 of the object that the narinfo states; zeros for unknown.
    pub(super) file_hash: [u8; 32],
    pub(super) label: u8,
    /// The first reference in the table of references, and the number of references.
    pub(super) references: (u32, u32),
    pub(super) deriver: u32,
    pub(super) signers: u32,
    pub(super) fault: u32,
    /// Whether the narinfo was removed while the bucket was read.
    pub(super) is_gone: bool,
}

/// A path that is not in the bucket.
#[derive(Clone, Debug)]
pub(super) struct Absent {
    pub(super) digest: [u8; 20],
    pub(super) name: String,
    /// Whether its narinfo was written while the bucket was read.
    pub(super) has_appeared: bool,
}

/// What a bucket holds, at the time at which it was listed.
///
/// Paths have numbers in the order of their hash parts. The numbers of narinfos that were removed meanwhile have no path.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub(super) rows: Vec<Row>,
    pub(super) places: Places,
    pub(super) names: Arena,
    /// Numbers of rows, and above them the numbers of absent paths.
    pub(super) references: Vec<u32>,
    pub(super) absent: Vec<Absent>,
    pub(super) nars: Objects,
    pub(super) others: Objects,
    /// `<hash>-<name>` of each derivation, once.
    pub(super) derivers: Arena,
    pub(super) signers: Vec<Vec<String>>,
    pub(super) faults: Vec<PathFault>,
    pub(super) realised: BTreeMap<String, Realised>,
    /// The URLs of NARs that do not fit their narinfos.
    pub(super) unfit_urls: HashSet<String>,
}

impl Catalog {
    /// The numbers of all paths, ascending.
    pub fn ids(&self) -> impl Iterator<Item = PathId> {
        self.rows.iter().enumerate().filter(|(_, row)| !row.is_gone).map(|(number, _)| PathId(number as u32))
    }

    /// The largest number of a path, and one: the length of a table by paths.
    pub fn size(&self) -> usize {
        self.rows.len()
    }

    /// The number of paths.
    pub fn paths(&self) -> usize {
        self.rows.iter().filter(|row| !row.is_gone).count()
    }

    /// The memory of the tables, in bytes, apart from the few that only damaged buckets fill.
    pub fn bytes(&self) -> usize {
        let rows = self.rows.len() * size_of::<Row>() + self.names.bytes();
        let references = self.references.len() * size_of::<u32>();
        let absent = self.absent.len() * size_of::<Absent>();
        rows + references + absent + self.nars.bytes() + self.others.bytes() + self.derivers.bytes()
    }

    /// Whether some narinfo names the NAR with this key, but no client can take it from there, as far as larder knows.
    pub fn is_unfit_nar(&self, key: &str) -> bool {
        self.unfit_urls.contains(key)
    }

    /// The keys of the realisations, and what each names.
    pub fn realised(&self) -> &BTreeMap<String, Realised> {
        &self.realised
    }

    /// Whether the realisation with this key names a path that is not in the bucket. One that cannot be read names none, and
    /// nobody knows what it is for.
    pub fn is_orphaned_realisation(&self, key: &str) -> bool {
        matches!(self.realised.get(key), Some(Realised::Path(digest)) if self.find(digest).is_none())
    }

    /// The path with this hash part.
    pub fn find(&self, digest: &[u8; 20]) -> Option<PathId> {
        let number = self.place(digest)?;
        (!self.rows[number].is_gone).then_some(PathId(number as u32))
    }

    /// The place of the path with this hash part, also if it was removed meanwhile.
    pub(super) fn place(&self, digest: &[u8; 20]) -> Option<usize> {
        self.places.find(digest, |place| &self.rows[place].digest)
    }

    pub(super) fn row(&self, id: PathId) -> &Row {
        &self.rows[id.0 as usize]
    }

    /// The hash part of a path, 20 bytes.
    pub fn digest(&self, id: PathId) -> &[u8; 20] {
        &self.row(id).digest
    }

    /// The hash part of a path, 32 characters.
    pub fn hash_part(&self, id: PathId) -> String {
        nixbase32::encode(self.digest(id))
    }

    /// The name of a path; `None` if its narinfo does not tell it.
    pub fn name(&self, id: PathId) -> Option<&str> {
        let name = self.row(id).name;
        (name != NONE).then(|| self.names.get(name))
    }

    /// `<hash>-<name>`, or only the hash part if the narinfo does not tell the name.
    pub fn basename(&self, id: PathId) -> String {
        match self.name(id) {
            Some(name) => format!("{}-{name}", self.hash_part(id)),
            None => self.hash_part(id),
        }
    }

    /// The path; `None` if the narinfo does not tell its name.
    pub fn path(&self, id: PathId) -> Option<StorePath> {
        StorePath::from_parts(*self.digest(id), self.name(id)?).ok()
    }

    /// The object of the narinfo.
    pub fn narinfo(&self, id: PathId) -> &Object {
        &self.row(id).object
    }

    /// The age of the narinfo, by the clock of the bucket.
    pub fn age(&self, id: PathId) -> Option<Duration> {
        self.row(id).object.age()
    }

    /// The NAR of a path, if it is in the bucket.
    pub fn nar(&self, id: PathId) -> Option<NarId> {
        let nar = self.row(id).nar;
        (nar != NONE).then_some(NarId(nar))
    }

    /// The key of a NAR, and its object.
    pub fn nar_object(&self, nar: NarId) -> (&str, &Object) {
        self.nars.get(nar.0)
    }

    /// The SHA-256 of the uncompressed NAR of a path, as its narinfo states it; zeros if it states none.
    pub fn nar_hash(&self, id: PathId) -> &[u8; 32] {
        &self.row(id).nar_hash
    }

    /// The size of the uncompressed NAR of a path, in bytes, as its narinfo states it.
    pub fn nar_size(&self, id: PathId) -> u64 {
        self.row(id).nar_size
    }

    /// What the narinfo says of its NAR; `None` if the NAR is not in the bucket.
    pub fn named_nar(&self, id: PathId) -> Option<NamedNar> {
        let row = self.row(id);
        let (key, _) = self.nar_object(self.nar(id)?);
        let file_size = Some(row.file_size).filter(|size| *size > 0);
        let file_hash = Some(row.file_hash).filter(|hash| *hash != [0; 32]);
        Some(NamedNar::new(key, row.nar_hash, label_named(row.label), row.nar_size, file_size, file_hash))
    }

    /// All objects that are NARs, by their numbers.
    pub fn nars(&self) -> &Objects {
        &self.nars
    }

    /// All objects that are neither narinfos nor NARs.
    pub fn others(&self) -> &Objects {
        &self.others
    }

    /// The references of a path, without the reference to itself.
    pub fn references(&self, id: PathId) -> impl ExactSizeIterator<Item = Reference> {
        let (start, count) = self.row(id).references;
        let rows = self.rows.len() as u32;
        self.references[start as usize..][..count as usize].iter().map(move |number| {
            match number.checked_sub(rows) {
                None => Reference::Present(PathId(*number)),
                Some(absent) => Reference::Absent(AbsentId(absent)),
            }
        })
    }

    /// The references of a path that are in the bucket, or were when its listing began.
    pub fn present_references(&self, id: PathId) -> impl Iterator<Item = PathId> {
        self.references(id).filter_map(|reference| match reference {
            Reference::Present(id) => Some(id),
            Reference::Absent(_) => None,
        })
    }

    /// The paths that narinfos refer to and that are not in the bucket.
    pub fn absent_ids(&self) -> impl Iterator<Item = AbsentId> {
        let is_absent = |absent: &Absent| !absent.has_appeared;
        let numbered = self.absent.iter().enumerate();
        numbered.filter(move |(_, absent)| is_absent(absent)).map(|(number, _)| AbsentId(number as u32))
    }

    /// The number of absent paths, with those that have appeared: the length of a table by absent paths.
    pub fn absent_size(&self) -> usize {
        self.absent.len()
    }

    /// A path that is not in the bucket.
    pub fn absent_path(&self, id: AbsentId) -> Option<StorePath> {
        let absent = &self.absent[id.0 as usize];
        StorePath::from_parts(absent.digest, &absent.name).ok()
    }

    /// Whether the narinfo of such a path was written while the bucket was read.
    pub fn has_appeared(&self, id: AbsentId) -> bool {
        self.absent[id.0 as usize].has_appeared
    }

    /// `<hash>-<name>.drv` of the derivation that built a path.
    pub fn deriver(&self, id: PathId) -> Option<&str> {
        let deriver = self.row(id).deriver;
        (deriver != NONE).then(|| self.derivers.get(deriver))
    }

    /// The names of the keys that signed a path.
    pub fn signers(&self, id: PathId) -> &[String] {
        self.signers.get(self.row(id).signers as usize).map_or(&[], Vec::as_slice)
    }

    /// Why no client can take the path, without its references; `None` if a client can.
    pub fn fault(&self, id: PathId) -> Option<&PathFault> {
        self.faults.get(self.row(id).fault as usize)
    }

    /// The paths and all that they refer to, directly or not, as far as it is in the bucket.
    pub fn closure(&self, roots: impl IntoIterator<Item = PathId>) -> PathSet {
        let mut closure = PathSet::new(self.size());
        let mut next: Vec<_> = roots.into_iter().filter(|root| closure.insert(*root)).collect();
        while let Some(id) = next.pop() {
            next.extend(self.present_references(id).filter(|reference| closure.insert(*reference)));
        }
        closure
    }

    /// The referrers of all paths.
    pub fn referrers(&self) -> Referrers {
        Referrers::of(self)
    }
}

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathSet {
    bits: Vec<u64>,
    len: usize,
}

impl PathSet {
    /// An empty set of paths with numbers below `size`.
    pub fn new(size: usize) -> Self {
        Self { bits: vec![0; size.div_ceil(64)], len: 0 }
    }

    /// A set of these paths.
    pub fn of(size: usize, paths: impl IntoIterator<Item = PathId>) -> Self {
        let mut set = Self::new(size);
        for path in paths {
            set.insert(path);
        }
        set
    }

    /// Adds a path. Returns whether it is new.
    pub fn insert(&mut self, id: PathId) -> bool {
        let (word, bit) = (id.0 as usize / 64, 1 << (id.0 % 64));
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        self.len += usize::from(is_new);
        is_new
    }

    /// Whether the path is in the set.
    pub fn contains(&self, id: PathId) -> bool {
        self.bits.get(id.0 as usize / 64).is_some_and(|word| word & (1 << (id.0 % 64)) != 0)
    }

    /// The number of paths.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the set has no path.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The paths, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PathId> {
        (0..self.bits.len() as u32 * 64).map(PathId).filter(|id| self.contains(*id))
    }
}

/// The paths that refer to each path.
#[derive(Clone, Debug, Default)]
pub struct Referrers {
    /// The end of the referrers of each path in `referrers`.
    starts: Vec<u32>,
    referrers: Vec<PathId>,
}

impl Referrers {
    fn of(catalog: &Catalog) -> Self {
        let mut starts = vec![0; catalog.size() + 1];
        for id in catalog.ids() {
            catalog.present_references(id).for_each(|reference| starts[reference.0 as usize + 1] += 1);
        }
        (1..starts.len()).for_each(|place| starts[place] += starts[place - 1]);
        let mut next = starts.clone();
        let mut referrers = vec![PathId(0); starts.last().copied().unwrap_or(0) as usize];
        for id in catalog.ids() {
            for reference in catalog.present_references(id) {
                let place = &mut next[reference.0 as usize];
                referrers[*place as usize] = id;
                *place += 1;
            }
        }
        Self { starts, referrers }
    }

    /// The paths that refer to this path.
    pub fn of_path(&self, id: PathId) -> &[PathId] {
        let number = id.0 as usize;
        &self.referrers[self.starts[number] as usize..self.starts[number + 1] as usize]
    }

    /// The paths, and all that refer to them, directly or not.
    pub fn above(&self, paths: &[PathId]) -> PathSet {
        let size = self.starts.len().saturating_sub(1);
        let mut above = PathSet::of(size, paths.iter().copied());
        let mut next = paths.to_vec();
        while let Some(id) = next.pop() {
            next.extend(self.of_path(id).iter().filter(|id| above.insert(**id)));
        }
        above
    }
}
