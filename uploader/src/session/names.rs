//! What the state machines of the protocol call things in a real bucket.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use crate::format::members::{Prefixed, Prefixes};
use crate::protocol::names::{Members, Names, Set};

/// Paths are named by their hash parts, NARs and other objects by their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BucketNames;

/// The hash part of a store path, decoded.
pub type HashPart = [u8; 20];
/// Hash parts of paths.
pub type Paths = Shared<HashPart>;
/// Keys of objects.
pub type Keys = Shared<Arc<str>>;

impl Names for BucketNames {
    type Collection = String;
    type Path = HashPart;
    type Nar = Arc<str>;
    type Paths = Paths;
    type Nars = Keys;
    type OpenPaths = InList<HashPart>;
    type OpenNars = InList<Arc<str>>;
}

/// The paths or the objects of a list, in the form in which a writer has read them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InList<T: Ord> {
    /// All of them.
    Whole(Shared<T>),
    /// The beginnings of their hashes, and items that do not count.
    Short(Arc<Prefixes<T>>, Shared<T>),
}

impl<T: Prefixed + Clone + Debug + Ord + Hash> Members<T> for InList<T> {
    fn has(&self, item: &T) -> bool {
        match self {
            Self::Whole(items) => items.contains(item),
            Self::Short(prefixes, spared) => prefixes.has(item) && !spared.contains(item),
        }
    }

    fn spare(&mut self, item: T) {
        match self {
            Self::Whole(items) => items.remove(&item),
            Self::Short(_, spared) => spared.insert(item),
        }
    }
}

/// A set that is cheap to clone: a collection may have 100,000 paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shared<T: Ord>(Arc<BTreeSet<T>>);

impl<T: Ord> Default for Shared<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Ord> Shared<T> {
    /// The number of items.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The items, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

impl<T: Ord> FromIterator<T> for Shared<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(Arc::new(items.into_iter().collect()))
    }
}

impl<T: Clone + Debug + Ord + Hash> Set<T> for Shared<T> {
    fn contains(&self, item: &T) -> bool {
        self.0.contains(item)
    }

    fn insert(&mut self, item: T) {
        Arc::make_mut(&mut self.0).insert(item);
    }

    fn remove(&mut self, item: &T) {
        if self.0.contains(item) {
            Arc::make_mut(&mut self.0).remove(item);
        }
    }

    fn items(&self) -> impl Iterator<Item = T> + '_ {
        self.0.iter().cloned()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
