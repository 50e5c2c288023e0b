//! A short form of a list of a collection, for writers: which paths and objects may be in the list. A push of a few paths
//! would otherwise read and sort megabytes beside a large collection.
//!
//! The object holds the first five bytes of each hash part, ascending, and then the first five bytes of the SHA-256 of each
//! key, ascending. The header of the list tells how many there are. A path that is not in the list is taken for a member once
//! in ten million questions, beside a list of 100,000 paths.

use sha2::{Digest, Sha256};

use super::collection::{Header, List};

/// The bytes of a prefix.
const PREFIX: usize = 5;

/// The key of the short form of the list with this key.
pub fn key(list: &str) -> String {
    format!("{list}-members")
}

/// The beginnings of hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prefixes(Vec<[u8; PREFIX]>);

impl Prefixes {
    fn of(hashes: impl Iterator<Item = [u8; PREFIX]>) -> Self {
        let mut prefixes: Vec<_> = hashes.collect();
        prefixes.sort_unstable();
        Self(prefixes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (prefixes, rest) = bytes.as_chunks::<PREFIX>();
        (rest.is_empty() && prefixes.is_sorted()).then(|| Self(prefixes.to_vec()))
    }

    /// Whether the path with this hash part may be in the list.
    pub fn has_path(&self, digest: &[u8; 20]) -> bool {
        self.0.binary_search(&of_path(digest)).is_ok()
    }

    /// Whether the object with this key may be in the list.
    pub fn has_object(&self, key: &str) -> bool {
        self.0.binary_search(&of_object(key)).is_ok()
    }
}

fn of_path(digest: &[u8; 20]) -> [u8; PREFIX] {
    std::array::from_fn(|place| digest[place])
}

fn of_object(key: &str) -> [u8; PREFIX] {
    let hash = Sha256::digest(key);
    std::array::from_fn(|place| hash[place])
}

/// The short form of a list.
pub fn encode(list: &List) -> Vec<u8> {
    let paths = Prefixes::of(list.levels.iter().flatten().map(of_path));
    let objects = Prefixes::of(list.objects.iter().map(|key| of_object(key)));
    [paths.0.as_flattened(), objects.0.as_flattened()].concat()
}

/// Reads the short form of the list with this header: its paths, and its objects. `None` if it is not that of this list.
pub fn decode(header: &Header, bytes: &[u8]) -> Option<(Prefixes, Prefixes)> {
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
        assert!([9, 2, 5].iter().all(|byte| paths.has_path(&[*byte; 20])));
        assert!(objects.has_object("nar/a") && objects.has_object("nar/b"));
        assert!(!paths.has_path(&[3; 20]) && !objects.has_object("nar/c"));
        // Only the beginning counts.
        let mut like = [9; 20];
        like[19] = 0;
        assert!(paths.has_path(&like));
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
