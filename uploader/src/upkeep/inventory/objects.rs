//! The objects of a bucket, as its listing shows them: compact, and sorted by their keys.

use std::time::Duration;

use nix_derivation::nixbase32;
use sha2::{Digest, Sha256};

use super::arena::Arena;
use crate::bucket::ObjectMeta;
use crate::format::object_kind::ObjectKind;

/// The largest age that is told apart, in seconds: 136 years.
const OLDEST: u64 = u32::MAX as u64 - 1;
/// The mark of an unknown age.
const UNKNOWN_AGE: u32 = u32::MAX;

/// A short form of an entity tag. Two objects under one key with equal sizes and tags have the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub [u8; 12]);

impl Tag {
    /// The short form of an entity tag.
    pub fn of(etag: &str) -> Self {
        let hash = Sha256::digest(etag);
        Self(std::array::from_fn(|place| hash[place]))
    }
}

/// An object without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// The size in bytes.
    pub size: u64,
    /// The entity tag; `None` if the server gives no tags.
    pub tag: Option<Tag>,
    age: u32,
}

impl Object {
    /// An object of a listing, or of the answer to a HEAD.
    pub fn new(meta: &ObjectMeta) -> Self {
        let age = meta.age.map_or(UNKNOWN_AGE, |age| age.as_secs().min(OLDEST) as u32);
        Self { size: meta.size, tag: meta.etag.as_deref().map(Tag::of), age }
    }

    /// An object that was read. Its age is unknown.
    pub(super) fn read(size: u64, tag: Option<Tag>) -> Self {
        Self { size, tag, age: UNKNOWN_AGE }
    }

    /// Whether both are the same object under one key. Without entity tags, nobody can tell.
    pub fn is_same(&self, other: &Self) -> bool {
        self.size == other.size && self.tag.is_some() && self.tag == other.tag
    }

    /// The time since the object was last written, at the time of the listing, by the clock of the bucket, in full seconds;
    /// `None` if the server does not tell.
    pub fn age(&self) -> Option<Duration> {
        (self.age != UNKNOWN_AGE).then(|| Duration::from_secs(self.age.into()))
    }
}

/// Objects with keys, in ascending order of the keys. A few that were found later follow.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    keys: Arena,
    /// The number of the key, and the object.
    objects: Vec<(u32, Object)>,
    /// The number of objects that are sorted by key. Objects that were found later follow.
    sorted: usize,
}

impl Objects {
    /// Adds an object.
    pub(super) fn push(&mut self, key: &str, object: Object) -> u32 {
        let key = self.keys.push(key);
        self.objects.push((key, object));
        (self.objects.len() - 1) as u32
    }

    /// Puts another object under the key with this number.
    pub(super) fn replace(&mut self, number: u32, object: Object) {
        self.objects[number as usize].1 = object;
    }

    /// Sorts by key. Of several objects with one key, the last stays: a listing that runs beside writers may show a key
    /// twice.
    fn sort(&mut self) {
        let Self { keys, objects, .. } = self;
        objects.sort_by(|(one, _), (other, _)| keys.get(*one).cmp(keys.get(*other)).then(other.cmp(one)));
        objects.dedup_by(|(one, _), (other, _)| keys.get(*one) == keys.get(*other));
        self.sorted = self.objects.len();
    }

    /// The number of the object with this key, among the objects that were listed.
    pub fn find(&self, key: &str) -> Option<u32> {
        let listed = &self.objects[..self.sorted];
        listed.binary_search_by(|(number, _)| self.keys.get(*number).cmp(key)).ok().map(|at| at as u32)
    }

    /// The key and the object with this number.
    pub fn get(&self, number: u32) -> (&str, &Object) {
        let (key, object) = &self.objects[number as usize];
        (self.keys.get(*key), object)
    }

    /// All keys and objects.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Object)> {
        self.objects.iter().map(|(key, object)| (self.keys.get(*key), object))
    }

    /// The memory of all objects, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes() + self.objects.len() * size_of::<(u32, Object)>()
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// All objects of a bucket by their kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    /// The narinfos by the hash part of their paths, ascending.
    pub(super) narinfos: Vec<([u8; 20], Object)>,
    /// The objects below `nar/`.
    pub(super) nars: Objects,
    /// All other objects.
    pub(super) others: Objects,
}

impl Listed {
    /// Adds an object of the listing.
    pub(super) fn add(&mut self, meta: &ObjectMeta) {
        let object = Object::new(meta);
        match ObjectKind::of(&meta.key) {
            ObjectKind::Narinfo(hash) => {
                match nixbase32::decode(hash.as_bytes()).ok().and_then(|hash| hash.try_into().ok()) {
                    Some(digest) => self.narinfos.push((digest, object)),
                    // No store path has such a hash part, so that no client asks for this object.
                    None => drop(self.others.push(&meta.key, object)),
                }
            }
            ObjectKind::Nar => drop(self.nars.push(&meta.key, object)),
            _ => drop(self.others.push(&meta.key, object)),
        }
    }

    /// Sorts all tables, after the last object was added.
    pub(super) fn sort(&mut self) {
        self.narinfos.sort_by_key(|(digest, _)| *digest);
        // Of two entries of one key, the older one came first, and the last one counts.
        self.narinfos.reverse();
        self.narinfos.dedup_by(|(one, _), (other, _)| one == other);
        self.narinfos.reverse();
        self.nars.sort();
        self.others.sort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(key: &str, size: u64) -> ObjectMeta {
        ObjectMeta {
            key: key.into(),
            size,
            etag: Some(format!("\"{size}\"")),
            age: Some(Duration::from_secs(size)),
        }
    }

    #[test]
    fn objects_are_sorted_by_kind_and_key_and_the_last_of_a_key_counts() {
        let mut listed = Listed::default();
        let (a, b) = ("0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo", "0d5b8vw40dy178xlpddw65q9gf1h2186.narinfo");
        for (key, size) in
            [(b, 1), ("nar/b", 2), ("x", 3), (a, 4), ("nar/a", 5), (b, 6), ("nar/b", 7), ("x", 8)]
        {
            listed.add(&meta(key, size));
        }
        listed.sort();
        assert_eq!(listed.narinfos.iter().map(|(_, object)| object.size).collect::<Vec<_>>(), [4, 6]);
        let nars: Vec<_> = listed.nars.iter().map(|(key, object)| (key, object.size)).collect();
        assert_eq!(nars, [("nar/a", 5), ("nar/b", 7)]);
        assert_eq!(listed.nars.find("nar/b").map(|number| listed.nars.get(number).1.size), Some(7));
        assert_eq!(listed.nars.find("nar/c"), None);
        assert_eq!(
            listed.others.iter().map(|(_, object)| object.age()).collect::<Vec<_>>(),
            [Some(Duration::from_secs(8))]
        );
    }

    #[test]
    fn a_narinfo_whose_hash_no_path_has_is_another_object() {
        let mut listed = Listed::default();
        listed.add(&meta("eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee.narinfo", 1));
        assert_eq!((listed.narinfos.len(), listed.others.len()), (0, 1));
    }
}
