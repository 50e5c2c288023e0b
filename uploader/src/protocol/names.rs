//! The types that the state machines are generic over.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;

/// A set of paths or of NARs.
pub trait Set<T>: Clone + Debug + Default + Eq + Hash {
    /// Whether `item` is in the set.
    fn contains(&self, item: &T) -> bool;
    /// Adds `item`.
    fn insert(&mut self, item: T);
    /// Takes `item` out.
    fn remove(&mut self, item: &T);
    /// The items.
    fn items(&self) -> impl Iterator<Item = T> + '_;
    /// Whether the set has no items.
    fn is_empty(&self) -> bool {
        self.items().next().is_none()
    }
}

impl<T: Clone + Debug + Ord + Hash> Set<T> for BTreeSet<T> {
    fn contains(&self, item: &T) -> bool {
        BTreeSet::contains(self, item)
    }

    fn insert(&mut self, item: T) {
        BTreeSet::insert(self, item);
    }

    fn remove(&mut self, item: &T) {
        BTreeSet::remove(self, item);
    }

    fn items(&self) -> impl Iterator<Item = T> + '_ {
        self.iter().cloned()
    }
}

/// The paths or the NARs of a collection, as a writer has read them. An item may count as a member that is none: the writer
/// then rescues it, waits, or asks again, in vain. A member never counts as none.
pub trait Members<T>: Clone + Debug + Eq + Hash {
    /// Whether `item` counts as a member.
    fn has(&self, item: &T) -> bool;
    /// From now on, `item` does not count as a member.
    fn spare(&mut self, item: T);
}

impl<T, S: Set<T>> Members<T> for S {
    fn has(&self, item: &T) -> bool {
        self.contains(item)
    }

    fn spare(&mut self, item: T) {
        self.remove(&item);
    }
}

/// How a program names the things that the protocol is about.
pub trait Names: Clone + Debug + Eq + Hash {
    /// The random id of a collection. It is never used twice.
    type Collection: Clone + Debug + Ord + Hash;
    /// A store path, which is the key of a narinfo.
    type Path: Clone + Debug + Eq + Hash;
    /// The key of a NAR.
    type Nar: Clone + Debug + Eq + Hash;
    /// Paths.
    type Paths: Set<Self::Path>;
    /// NARs.
    type Nars: Set<Self::Nar>;
    /// The paths of an open collection.
    type OpenPaths: Members<Self::Path>;
    /// The NARs of an open collection.
    type OpenNars: Members<Self::Nar>;
}
