//! A short form of a list of a collection, for writers: which paths and objects may be in the list. A push of a few paths
//! would otherwise read and sort megabytes beside a large collection.
//!
//! The object holds the first five bytes of each hash part, ascending, and then the first five bytes of the SHA-256 of each
//! key, ascending. The header of the list tells how many there are. A path that is not in the list is taken for a member once
//! in ten million questions, beside a list of 100,000 paths.

use std::marker::PhantomData;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::collection::{Header, List};

/// The bytes of a prefix.
const PREFIX: usize = 5;

/// The key of the short form of the list with this key.
pub fn key(list: &str) -> String {
    format!("{list}-members")
}

/// What a list has: hash parts of paths, or keys of objects.
pub trait Prefixed {
    /// The first bytes of its hash.
    fn prefix(&self) -> [u8; PREFIX];
}

impl Prefixed for [u8; 20] {
    fn prefix(&self) -> [u8; PREFIX] {
        std::array::from_fn(|place| self[place])
    }
}

impl Prefixed for Arc<str> {
    fn prefix(&self) -> [u8; PREFIX] {
        of_key(self)
    }
}

fn of_key(key: &str) -> [u8; PREFIX] {
    let hash = Sha256::digest(key);
    std::array::from_fn(|place| hash[place])
}

/// The beginnings of the hashes of paths or of objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefixes<T>(Vec<[u8; PREFIX]>, PhantomData<T>);

impl<T: Prefixed> Prefixes<T> {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (prefixes, rest) = bytes.as_chunks::<PREFIX>();
        (rest.is_empty() && prefixes.is_sorted()).then(|| Self(prefixes.to_vec(), PhantomData))
    }

    /// Whether `item` may be in the list.
    pub fn has(&self, item: &T) -> bool {
        self.0.binary_search(&item.prefix()).is_ok()
    }
}

/// The short form of a list.
pub fn encode(list: &List) -> Vec<u8> {
    let mut paths: Vec<_> = list.levels.iter().flatten().map(Prefixed::prefix).collect();
    let mut objects: Vec<_> = list.objects.iter().map(|key| of_key(key)).collect();
    paths.sort_unstable();
    objects.sort_unstable();
    [paths.as_flattened(), objects.as_flattened()].concat()
}

/// The short form of a list, as it was read: its paths, and its objects.
pub type Members = (Prefixes<[u8; 20]>, Prefixes<Arc<str>>);

/// Reads the short form of the list with this header. `None` if it is not that of this list.
pub fn decode(header: &Header, bytes: &[u8]) -> Option<Members> {
    let paths = header.paths.checked_mul(PREFIX)?;
    let objects = header.objects.checked_mul(PREFIX)?;
    let (first, second) = bytes.split_at_checked(paths)?;
    (second.len() == objects).then_some(())?;
    Some((Prefixes::decode(first)?, Prefixes::decode(second)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> List {
        let levels = vec![vec![[9; 20], [2; 20]], vec![[5; 20]]];
        List { levels, objects: vec!["nar/b".into(), "nar/a".into()] }
    }

    #[test]
    fn every_member_is_found() {
        let header = Header::parse(&list().encode(false).0).unwrap();
        let (paths, objects) = decode(&header, &encode(&list())).unwrap();
        assert!([9, 2, 5].iter().all(|byte| paths.has(&[*byte; 20])));
        assert!(objects.has(&"nar/a".into()) && objects.has(&"nar/b".into()));
        assert!(!paths.has(&[3; 20]) && !objects.has(&"nar/c".into()));
        // Only the beginning counts.
        let mut like = [9; 20];
        like[19] = 0;
        assert!(paths.has(&like));
    }

    #[test]
    fn another_form_is_refused() {
        let header = Header::parse(&list().encode(false).0).unwrap();
        let bytes = encode(&list());
        assert_eq!(decode(&header, &bytes[1..]), None);
        assert_eq!(decode(&Header { paths: 2, ..header.clone() }, &bytes), None);
        assert_eq!(decode(&Header { paths: usize::MAX, ..header.clone() }, &bytes), None);
        let unsorted = [&bytes[PREFIX..2 * PREFIX], &bytes[..PREFIX], &bytes[2 * PREFIX..]].concat();
        assert_eq!(decode(&header, &unsorted), None);
    }
}
