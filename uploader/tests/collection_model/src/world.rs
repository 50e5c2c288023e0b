//! The state of the model: a bucket, and the processes that use it.

use larder::protocol::collection::Collection;
use larder::protocol::gate::{Gate, Open, Stage};
use larder::protocol::look::{Narinfos, Taken};
use larder::protocol::names::{Names, Set};
use larder::protocol::rules::Rules;

/// A small set of small numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bits(pub u8);

impl Bits {
    /// The set of one number.
    pub fn one(item: u8) -> Self {
        Self(1 << item)
    }

    /// Whether `item` is in the set.
    pub fn has(self, item: u8) -> bool {
        self.0 & (1 << item) != 0
    }

    /// This set and `other`.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    pub fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set without `other`.
    pub fn but(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of this set is in `other`.
    pub fn within(self, other: Self) -> bool {
        self.but(other).0 == 0
    }

    /// The numbers.
    pub fn list(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |item| self.has(*item))
    }
}

impl Set<u8> for Bits {
    fn contains(&self, item: &u8) -> bool {
        self.has(*item)
    }

    fn insert(&mut self, item: u8) {
        self.0 |= 1 << item;
    }

    fn remove(&mut self, item: &u8) {
        self.0 &= !(1 << *item);
    }

    fn items(&self) -> impl Iterator<Item = u8> + '_ {
        self.list()
    }

    fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

/// The names of the model. Paths are numbers, and refer to smaller ones. The old NAR of a path has the number of the path;
/// [`FRESH`] more is its NAR under a key that was never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiny;

impl Names for Tiny {
    type Collection = u8;
    type Path = u8;
    type Nar = u8;
    type Paths = Bits;
    type Nars = Bits;
    type OpenPaths = Self::Paths;
    type OpenNars = Self::Nars;
}

/// What the number of a fresh NAR is larger by.
pub const FRESH: u8 = 4;
/// The most paths, writers, collectors, and collections that exist at a time.
pub const PATHS: usize = 3;
/// See [`PATHS`].
pub const PROCESSES: usize = 2;
/// See [`PATHS`].
pub const SLOTS: usize = 2;

/// The objects of an open collection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// How far it is.
    pub stage: Stage,
    /// `condemned`; from the stage of deleting on, `final`.
    pub taken: Taken<Tiny>,
    /// Whether it is a removal.
    pub removal: bool,
    /// `condemned` beside `final`, where a mutation reads it.
    pub condemned: Taken<Tiny>,
    /// The paths of all rescues.
    pub rescued: Bits,
}

/// The bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// The paths that have a narinfo.
    pub visible: Bits,
    /// Those whose narinfo names the old NAR. The others name one that no collection takes.
    pub named: Bits,
    /// The paths whose old NAR is in the bucket.
    pub nars: Bits,
    /// The paths that pins and records of sessions keep.
    pub recorded: Bits,
    /// The paths of which a writer was told that clients can take them, and whose record has not expired.
    pub promised: Bits,
    /// The open collections.
    pub slots: [Option<Slot>; SLOTS],
}

impl Bucket {
    /// The open collections, as a writer reads them.
    pub fn open(&self) -> Vec<Open<Tiny>> {
        let slots = self.slots.iter().enumerate();
        let open = slots.filter_map(|(id, slot)| {
            slot.as_ref().map(|slot| Open {
                id: id as u8,
                stage: slot.stage,
                paths: slot.taken.paths,
                nars: slot.taken.nars,
                rescuable: !slot.removal,
            })
        });
        open.collect()
    }

    /// The NAR that the narinfo of `path` names.
    pub fn nar(&self, path: u8) -> u8 {
        if self.named.has(path) { path } else { path + FRESH }
    }

    /// The old NARs that no narinfo names.
    pub fn orphans(&self) -> Bits {
        self.nars.but(self.visible.common(self.named))
    }
}

/// A request of a writer that may still be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// The narinfo of a path.
    Narinfo {
        /// The path.
        path: u8,
        /// Whether it names the old NAR.
        old: bool,
        /// If it is meant to replace a narinfo: whether that one names the old NAR.
        over: Option<bool>,
    },
    /// A rescue.
    Rescue {
        /// The collection.
        slot: u8,
        /// The paths.
        paths: Bits,
    },
    /// The record of the target.
    Record,
}

/// A request, and whether the gate has changed since it was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sent {
    /// The request.
    pub request: Request,
    /// Whether the writer has learned of another stage since.
    pub outdated: bool,
}

/// How far the session of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Session {
    /// There is none.
    Out,
    /// The process has begun: a writer has its lease, or has looked; a collector has its lease.
    Beginning,
    /// A writer that may ask and write; a collector that may act.
    Active,
    /// The lease has run out: by a crash, or by freezing.
    Over,
}

/// A writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// The session.
    pub session: Session,
    /// Whether its lease is in the bucket. The acknowledgements in it are those of the gate.
    pub lease: bool,
    /// Whether the session was there when the latest collection was condemned.
    pub older: bool,
    /// What it knows of the collections.
    pub gate: Gate<Tiny>,
    /// The paths that it takes to be usable.
    pub known: Bits,
    /// The old NARs that it takes to be there.
    pub known_nars: Bits,
    /// The request that it waits for.
    pub sent: Option<Sent>,
    /// An earlier attempt whose answer it does not wait for any more.
    pub stray: Option<Sent>,
    /// Whether the record of its push is in the bucket.
    pub recorded: bool,
}

impl Writer {
    /// A writer without a session.
    pub fn new(rules: Rules) -> Self {
        Self {
            session: Session::Out,
            lease: false,
            older: false,
            gate: Gate::new(rules),
            known: Bits(0),
            known_nars: Bits(0),
            sent: None,
            stray: None,
            recorded: false,
        }
    }

    /// Whether all its requests are settled.
    pub fn settled(&self) -> bool {
        self.sent.is_none() && self.stray.is_none()
    }
}

/// An object that a collector is putting into the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Publication {
    /// `condemned`, and whether it is a removal.
    Condemned(Taken<Tiny>, bool),
    /// `closing`.
    Closing,
    /// `final`.
    Final(Taken<Tiny>),
    /// `done`.
    Done,
}

/// The collection that a collector works at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// Where it is in the bucket.
    pub slot: u8,
    /// The state machine.
    pub collection: Collection<Tiny>,
    /// What it condemns, and after the last look, what it takes.
    pub taken: Taken<Tiny>,
    /// Whether it is a removal.
    pub removal: bool,
    /// The narinfos that the marking has seen; those that named the old NAR.
    pub seen: (Bits, Bits),
    /// Whether no writer had a lease before the last object was put: for a mutation.
    pub nobody: bool,
}

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collector {
    /// The session.
    pub session: Session,
    /// Whether its lease is in the bucket.
    pub lease: bool,
    /// What it works at.
    pub task: Option<Task>,
    /// The object that it is putting, and the collection.
    pub publication: Option<(u8, Publication)>,
    /// The deletions of narinfos that may still be carried out.
    pub deletes: Bits,
    /// The deletions of old NARs that may still be carried out.
    pub nar_deletes: Bits,
}

impl Collector {
    /// A collector without a session.
    pub fn new() -> Self {
        Self {
            session: Session::Out,
            lease: false,
            task: None,
            publication: None,
            deletes: Bits(0),
            nar_deletes: Bits(0),
        }
    }

    /// Whether its deletions are settled.
    pub fn deletions_settled(&self) -> bool {
        self.deletes.0 == 0 && self.nar_deletes.0 == 0
    }
}

impl Default for Collector {
    fn default() -> Self {
        Self::new()
    }
}

/// The state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The bucket.
    pub bucket: Bucket,
    /// The writers.
    pub writers: [Writer; PROCESSES],
    /// The collectors.
    pub collectors: [Collector; PROCESSES],
}

/// The narinfos as a collector reads them at its last look.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The bucket.
    pub bucket: &'a Bucket,
    /// The references of each path.
    pub references: &'a [Bits; PATHS],
    /// What the marking has seen.
    pub seen: (Bits, Bits),
}

impl Narinfos<Tiny> for Reading<'_> {
    fn read(&self, path: &u8) -> Option<(Vec<u8>, u8)> {
        let there = self.bucket.visible.has(*path);
        there.then(|| (self.references[usize::from(*path)].list().collect(), self.bucket.nar(*path)))
    }

    fn new_ones(&self) -> Vec<u8> {
        self.bucket.visible.but(self.seen.0).list().collect()
    }

    fn changed_ones(&self) -> Vec<u8> {
        let other = Bits(self.bucket.named.0 ^ self.seen.1.0);
        self.bucket.visible.common(self.seen.0).common(other).list().collect()
    }
}
