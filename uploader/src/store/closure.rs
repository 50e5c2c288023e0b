//! Closures: store paths and all paths that they refer to, directly or indirectly.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use nix_derivation::StorePath;

use crate::base::error::Result;
use crate::format::path_info::PathInfo;

/// The number of paths in one query. Replies repeat paths that are in memory already; small queries free the copies
/// soon.
const PORTION: usize = 512;

/// A source of path infos: the daemon, or a stand-in in tests.
pub trait PathInfoSource {
    /// The path infos of the paths, in the same order; `None` for a path that is not valid.
    fn path_infos(&mut self, paths: &[Arc<StorePath>]) -> Result<Vec<Option<PathInfo>>>;
}

/// Store paths and all paths that they refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// The path infos of the valid paths.
    pub infos: BTreeMap<Arc<StorePath>, Arc<PathInfo>>,
    /// The paths that are not valid, sorted: roots, and references that were deleted in the meantime.
    pub missing: Vec<Arc<StorePath>>,
}

/// The closure of `roots`, breadth first. Each level is queried together.
///
/// # Errors
/// The source fails.
pub fn closure<S: PathInfoSource + ?Sized>(source: &mut S, roots: &[Arc<StorePath>]) -> Result<Closure> {
    // One copy of each path, which all references to the path share.
    let mut paths: HashSet<Arc<StorePath>> = HashSet::with_capacity(roots.len());
    let (mut infos, mut missing) = (Vec::with_capacity(roots.len()), Vec::new());
    let mut level: Vec<_> = roots.iter().filter(|root| paths.insert(Arc::clone(root))).cloned().collect();
    while !level.is_empty() {
        let mut next = Vec::new();
        for asked in level.chunks(PORTION) {
            for (path, info) in asked.iter().zip(source.path_infos(asked)?) {
                let Some(mut info) = info else {
                    missing.push(Arc::clone(path));
                    continue;
                };
                info.references.replace(|reference| match paths.get(reference) {
                    Some(known) => Arc::clone(known),
                    None => {
                        paths.insert(Arc::clone(reference));
                        next.push(Arc::clone(reference));
                        Arc::clone(reference)
                    }
                });
                infos.push((Arc::clone(path), Arc::new(info)));
            }
        }
        level = next;
    }
    drop(paths);
    missing.sort_unstable();
    Ok(Closure { infos: infos.into_iter().collect(), missing })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source whose paths are named by letters. `references` holds the references of each valid path.
    struct Fake {
        references: BTreeMap<char, &'static str>,
        rounds: Vec<usize>,
    }

    fn path(letter: char) -> Arc<StorePath> {
        Arc::new(StorePath::from_parts([letter as u8; 20], &letter.to_string()).unwrap())
    }

    fn letters<'a>(paths: impl IntoIterator<Item = &'a Arc<StorePath>>) -> String {
        let mut letters: Vec<&str> = paths.into_iter().map(|path| path.name()).collect();
        letters.sort_unstable();
        letters.concat()
    }

    impl PathInfoSource for Fake {
        fn path_infos(&mut self, paths: &[Arc<StorePath>]) -> Result<Vec<Option<PathInfo>>> {
            self.rounds.push(paths.len());
            let info = |path_: &Arc<StorePath>| {
                let references = self.references.get(&path_.name().chars().next().unwrap())?;
                Some(PathInfo {
                    path: path_.clone(),
                    deriver: None,
                    nar_hash: [0; 32],
                    nar_size: 1,
                    references: references.chars().map(|letter| (*path(letter)).clone()).collect(),
                    registration_time: 0,
                    ultimate: false,
                    signatures: Box::default(),
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
    fn each_path_is_in_memory_once() {
        let found = closure(&mut fake(), &[path('a')]).unwrap();
        for info in found.infos.values() {
            for reference in info.references.iter() {
                assert!(Arc::ptr_eq(reference, &found.infos[reference].path));
                assert!(Arc::ptr_eq(reference, found.infos.get_key_value(reference).unwrap().0));
            }
        }
    }
}
