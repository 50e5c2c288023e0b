//! Closures: paths and all that they refer to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nix_derivation::StorePath;

use super::daemon::Daemon;
use super::path_info::PathInfo;
use crate::error::Result;

/// Where path infos come from; the daemon, save in tests.
pub trait PathInfoSource {
    /// What is known of each path, in the same order; `None` where a path is not valid.
    fn path_infos(&mut self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>>;
}

impl PathInfoSource for Daemon {
    fn path_infos(&mut self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>> {
        Daemon::path_infos(self, paths)
    }
}

/// Paths and all that they refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// The valid paths.
    pub infos: BTreeMap<StorePath, Arc<PathInfo>>,
    /// The paths that are not valid, sorted: roots, and references whose path went away in the meantime.
    pub missing: Vec<StorePath>,
}

/// The closure of `roots`, breadth first: one round of pipelined queries for each level.
pub fn closure<S: PathInfoSource + ?Sized>(source: &mut S, roots: &[StorePath]) -> Result<Closure> {
    ClosureWalker::default().closure(source, roots)
}

/// Computes closures and remembers what it has learnt of valid paths.
///
/// What it remembers is true for as long as the paths stay in the store: keep it no longer than the roots that see to
/// that.
#[derive(Debug, Default)]
pub struct ClosureWalker {
    known: HashMap<StorePath, Arc<PathInfo>>,
}

impl ClosureWalker {
    /// A walker that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The closure of `roots`; only what is not known yet is asked of `source`.
    pub fn closure<S: PathInfoSource + ?Sized>(
        &mut self,
        source: &mut S,
        roots: &[StorePath],
    ) -> Result<Closure> {
        let mut infos = BTreeMap::new();
        let mut missing = BTreeSet::new();
        let mut level: BTreeSet<StorePath> = roots.iter().cloned().collect();
        while !level.is_empty() {
            let asked: Vec<StorePath> =
                level.iter().filter(|path| !self.known.contains_key(*path)).cloned().collect();
            let answers = source.path_infos(&asked)?;
            for (path, info) in asked.into_iter().zip(answers) {
                match info {
                    Some(info) => {
                        self.known.insert(path, Arc::new(info));
                    }
                    None => {
                        missing.insert(path);
                    }
                }
            }
            let mut next = BTreeSet::new();
            for path in level {
                if let Some(info) = self.known.get(&path) {
                    next.extend(info.references.iter().cloned());
                    infos.insert(path, Arc::clone(info));
                }
            }
            next.retain(|path| !infos.contains_key(path) && !missing.contains(path));
            level = next;
        }
        Ok(Closure { infos, missing: missing.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths named by a letter; `references` tells what each valid one refers to.
    struct Fake {
        references: BTreeMap<char, &'static str>,
        rounds: Vec<usize>,
    }

    fn path(letter: char) -> StorePath {
        StorePath::from_parts([letter as u8; 20], &letter.to_string()).unwrap()
    }

    fn letters<'a>(paths: impl IntoIterator<Item = &'a StorePath>) -> String {
        let mut letters: Vec<&str> = paths.into_iter().map(StorePath::name).collect();
        letters.sort_unstable();
        letters.concat()
    }

    impl PathInfoSource for Fake {
        fn path_infos(&mut self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>> {
            self.rounds.push(paths.len());
            let info = |path_: &StorePath| {
                let references = self.references.get(&path_.name().chars().next().unwrap())?;
                Some(PathInfo {
                    path: path_.clone(),
                    deriver: None,
                    nar_hash: [0; 32],
                    nar_size: 1,
                    references: references.chars().map(path).collect(),
                    registration_time: 0,
                    ultimate: false,
                    signatures: Vec::new(),
                    ca: None,
                })
            };
            Ok(paths.iter().map(info).collect())
        }
    }

    fn fake() -> Fake {
        let references = [('a', "bc"), ('b', "bd"), ('c', "d"), ('d', ""), ('e', "ax")].into();
        Fake { references, rounds: Vec::new() }
    }

    #[test]
    fn all_references_are_followed_once_level_by_level() {
        let mut fake = fake();
        let found = closure(&mut fake, &[path('a'), path('a')]).unwrap();
        assert_eq!(letters(found.infos.keys()), "abcd");
        assert!(found.missing.is_empty());
        assert_eq!(fake.rounds, [1, 2, 1]);
    }

    #[test]
    fn roots_and_references_that_are_not_valid_are_reported() {
        let found = closure(&mut fake(), &[path('e'), path('y')]).unwrap();
        assert_eq!(letters(found.infos.keys()), "abcde");
        assert_eq!(letters(&found.missing), "xy");
    }

    #[test]
    fn a_walker_asks_only_for_what_it_does_not_know() {
        let (mut fake, mut walker) = (fake(), ClosureWalker::new());
        walker.closure(&mut fake, &[path('b')]).unwrap();
        fake.rounds.clear();
        let found = walker.closure(&mut fake, &[path('a')]).unwrap();
        assert_eq!(letters(found.infos.keys()), "abcd");
        assert_eq!(fake.rounds.iter().sum::<usize>(), 2);
    }
}
