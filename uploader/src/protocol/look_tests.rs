use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Numbers;

impl Names for Numbers {
    type Collection = u8;
    type Path = u8;
    type Nar = u8;
    type Paths = BTreeSet<u8>;
    type Nars = BTreeSet<u8>;
    type OpenPaths = Self::Paths;
    type OpenNars = Self::Nars;
}

/// Narinfos by path: references and NAR.
#[derive(Default)]
struct Read {
    narinfos: BTreeMap<u8, (Vec<u8>, u8)>,
    new: Vec<u8>,
    changed: Vec<u8>,
}

impl Narinfos<Numbers> for Read {
    fn read(&self, path: &u8) -> Option<(Vec<u8>, u8)> {
        self.narinfos.get(path).cloned()
    }

    fn new_ones(&self) -> Vec<u8> {
        self.new.clone()
    }

    fn changed_ones(&self) -> Vec<u8> {
        self.changed.clone()
    }
}

/// 4 → 3 → 1, 4 → 2 → 1.
fn diamond() -> Read {
    let narinfos = [(1, (vec![], 11)), (2, (vec![1], 12)), (3, (vec![1], 13)), (4, (vec![2, 3], 14))].into();
    Read { narinfos, ..Read::default() }
}

fn taken(paths: &[u8], nars: &[u8]) -> Taken<Numbers> {
    Taken { paths: paths.iter().copied().collect(), nars: nars.iter().copied().collect() }
}

fn kept(recorded: &[u8], rescued: &[u8]) -> Kept<Numbers> {
    Kept { recorded: recorded.iter().copied().collect(), rescued: rescued.iter().copied().collect() }
}

#[test]
fn a_path_is_condemned_only_with_its_referrers() {
    let read = diamond();
    let referrers = |path: &u8| {
        read.narinfos
            .iter()
            .filter(|(_, (references, _))| references.contains(path))
            .map(|(path, _)| *path)
            .collect()
    };
    let references = |path: &u8| read.read(path).map(|(references, _)| references).unwrap_or_default();
    let condemned = |wanted: &[u8]| {
        condemn::<Numbers>(wanted.iter().copied().collect(), referrers, references, Rules::ALL)
    };
    assert_eq!(condemned(&[1, 2, 4]), [2, 4].into());
    assert_eq!(condemned(&[1, 2, 3]), [].into());
    assert_eq!(condemned(&[1, 2, 3, 4]), [1, 2, 3, 4].into());
}

#[test]
fn what_is_kept_keeps_its_closure() {
    let look = |condemned: &[u8], kept: &Kept<Numbers>, read: &Read| {
        last_look(&taken(condemned, &[]), kept, read, Rules::ALL).paths.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(look(&[1, 2, 3, 4], &kept(&[], &[]), &diamond()), [1, 2, 3, 4]);
    assert_eq!(look(&[1, 2, 3, 4], &kept(&[3], &[]), &diamond()), [2, 4]);
    assert!(look(&[1, 2, 3, 4], &kept(&[], &[4]), &diamond()).is_empty());
    // The marking has not seen 3, which refers to what is condemned.
    assert_eq!(look(&[1, 2], &kept(&[], &[]), &Read { new: vec![3], ..diamond() }), [2]);
}

#[test]
fn a_nar_stays_if_a_new_or_changed_narinfo_names_it() {
    for read in [Read { new: vec![3], ..diamond() }, Read { changed: vec![3], ..diamond() }] {
        let left = last_look(&taken(&[], &[13, 99]), &kept(&[], &[]), &read, Rules::ALL);
        assert_eq!(left, taken(&[], &[99]));
    }
}

#[test]
fn the_absent_path_of_a_rescue_is_free() {
    let left = last_look(&taken(&[7], &[]), &kept(&[], &[7]), &diamond(), Rules::ALL);
    assert!(left.is_empty());
}

#[test]
fn referrers_are_deleted_first() {
    let read = diamond();
    let references = |path: &u8| read.read(path).map(|(references, _)| references).unwrap_or_default();
    let all = levels::<Numbers>(&[1, 2, 3, 4].into(), references, Rules::ALL);
    assert_eq!(all, [[4].into(), [2, 3].into(), [1].into()]);
    // The references of a path do not depend on its level: 1 is below 3 levels by one way, and below 1 by another.
    let long = |path: &u8| match path {
        4 => vec![1, 3],
        3 => vec![2],
        2 => vec![1, 2, 9],
        _ => vec![],
    };
    let all = levels::<Numbers>(&[1, 2, 3, 4].into(), long, Rules::ALL);
    assert_eq!(all, [[4].into(), [3].into(), [2].into(), [1].into()]);
    let circle = levels::<Numbers>(&[1, 2].into(), |path| vec![3 - path], Rules::ALL);
    assert_eq!(circle, [[1, 2].into()]);
    // What lies below a circle is deleted after it, and in order.
    let below = |path: &u8| match path {
        1 => vec![2],
        2 => vec![1, 3],
        3 => vec![4],
        9 => vec![1],
        _ => vec![],
    };
    let all = levels::<Numbers>(&[1, 2, 3, 4, 9].into(), below, Rules::ALL);
    assert_eq!(all, [[9].into(), [1, 2].into(), [3].into(), [4].into()]);
}
