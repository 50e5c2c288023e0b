//! What a model contains: its bounds.

use larder::protocol::names::Set;
use larder::protocol::rules::{Rule, Rules};

use crate::world::{Bits, PATHS, PROCESSES, SLOTS};

/// What a writer does in each session, as often as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// It makes its target and the closure available, from references to referrers, and reports the target. It uploads the
    /// NARs that are missing, or shares old ones.
    Push,
    /// It reads the narinfo of its target and writes it again with one more signature.
    Sign,
    /// It reads the narinfo of its target and replaces it by one that names a fresh NAR.
    Repair,
    /// It brings back its target with the old NARs, where no narinfo is. So does a promotion.
    Undo,
}

/// A writer's work and target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The work.
    pub work: Work,
    /// The path.
    pub target: u8,
}

impl Plan {
    /// A push of `target`.
    pub const fn push(target: u8) -> Self {
        Self { work: Work::Push, target }
    }

    /// Signing the narinfo of `target`.
    pub const fn sign(target: u8) -> Self {
        Self { work: Work::Sign, target }
    }

    /// Repairing `target`.
    pub const fn repair(target: u8) -> Self {
        Self { work: Work::Repair, target }
    }

    /// Whether the work replaces narinfos.
    pub const fn replaces(&self) -> bool {
        matches!(self.work, Work::Sign | Work::Repair)
    }

    /// Bringing `target` back.
    pub const fn undo(target: u8) -> Self {
        Self { work: Work::Undo, target }
    }
}

/// What a model contains.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The rules that the processes obey.
    pub rules: Rules,
    /// The references of each path, to smaller paths.
    pub references: [Bits; PATHS],
    /// The number of paths.
    pub paths: u8,
    /// The writers.
    pub writers: Vec<Plan>,
    /// The number of collectors.
    pub collectors: usize,
    /// The number of collections that exist at a time, with those that a writer still remembers.
    pub slots: usize,
    /// Whether the server has conditional writes.
    pub conditional: bool,
    /// The paths whose old NARs are followed. All others have NARs that stay.
    pub nars: Bits,
    /// Whether a writer may send a second attempt while the first one may still be carried out.
    pub strays: bool,
    /// Whether leases run out.
    pub expiry: bool,
    /// Whether records expire.
    pub forgetting: bool,
    /// Whether a collector may condemn a part of what it could.
    pub parts: bool,
    /// Whether a collector may give a collection up.
    pub aborts: bool,
    /// A path that a person may remove, whatever keeps it.
    pub removed: Option<u8>,
    /// Whether the age of sessions is followed.
    pub ages: bool,
    /// The buckets at the beginning: the visible paths, and the recorded ones among them.
    pub initial: Vec<(Bits, Bits)>,
}

impl Setting {
    /// A setting with all that can happen, in which `references` are those of the paths in turn. All closed sets of paths
    /// are visible at the beginning, without records.
    pub fn new(references: &[&[u8]], writers: &[Plan], collectors: usize) -> Self {
        assert!(references.len() <= PATHS && writers.len() <= PROCESSES && collectors <= PROCESSES);
        let mut sets = [Bits(0); PATHS];
        for (set, list) in sets.iter_mut().zip(references) {
            list.iter().for_each(|path| set.insert(*path));
        }
        let mut setting = Self {
            rules: Rules::ALL,
            references: sets,
            paths: references.len() as u8,
            writers: writers.to_vec(),
            collectors,
            slots: 1,
            conditional: false,
            nars: Bits(0),
            strays: true,
            expiry: true,
            forgetting: true,
            parts: false,
            aborts: true,
            ages: false,
            removed: None,
            initial: Vec::new(),
        };
        let all = 0..1_u8 << setting.paths;
        setting.initial =
            all.map(Bits).filter(|set| setting.is_closed(*set)).map(|set| (set, Bits(0))).collect();
        setting
    }

    /// Follows the old NARs of `paths`.
    #[must_use]
    pub fn nars(mut self, paths: Bits) -> Self {
        self.nars = paths;
        self
    }

    /// Follows all old NARs.
    #[must_use]
    pub fn all_nars(self) -> Self {
        let all = Bits((1 << self.paths) - 1);
        self.nars(all)
    }

    /// Without second attempts while the first one may still be carried out.
    #[must_use]
    pub fn no_strays(mut self) -> Self {
        self.strays = false;
        self
    }

    /// On a server with conditional writes.
    #[must_use]
    pub fn conditional(mut self) -> Self {
        self.conditional = true;
        self
    }

    /// With collections of parts.
    #[must_use]
    pub fn parts(mut self) -> Self {
        self.parts = true;
        self
    }

    /// With removals of `path`.
    #[must_use]
    pub fn removed(mut self, path: u8) -> Self {
        self.removed = Some(path);
        self
    }

    /// Follows the age of sessions.
    #[must_use]
    pub fn ages(mut self) -> Self {
        self.ages = true;
        self
    }

    /// Without a rule.
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        self.rules = Rules::ALL.without(rule);
        self
    }

    /// With two collections that exist at a time.
    #[must_use]
    pub fn two_slots(mut self) -> Self {
        self.slots = 2;
        self
    }

    /// Whether all references of `paths` are in `paths`.
    pub fn is_closed(&self, paths: Bits) -> bool {
        paths.list().all(|path| self.references[usize::from(path)].within(paths))
    }

    /// `paths` and all that they refer to.
    pub fn closure(&self, paths: Bits) -> Bits {
        let mut all = paths;
        loop {
            let more = all.list().fold(all, |more, path| more.and(self.references[usize::from(path)]));
            if more == all {
                return all;
            }
            all = more;
        }
    }

    /// The paths that refer to `path`, among `visible`.
    pub fn referrers(&self, path: u8, visible: Bits) -> Vec<u8> {
        visible.list().filter(|other| self.references[usize::from(*other)].has(path)).collect()
    }

    /// Whether collection `slot` may exist.
    pub fn slots(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.slots.min(SLOTS) as u8
    }
}
