//! What a collection may take: the marking, and the last look.

use std::collections::HashMap;

use super::names::{Names, Set};
use super::rules::{Rule, Rules};

/// The narinfos of a bucket, as a collector has read them. A narinfo that was read at the marking, and has the same entity
/// tag, size and date in a listing after that, need not be read again.
pub trait Narinfos<N: Names> {
    /// The references of the narinfo of `path`, without itself, and the NAR that it names. `None` if the narinfo is absent.
    fn read(&self, path: &N::Path) -> Option<(Vec<N::Path>, N::Nar)>;
    /// The narinfos that the marking has not seen.
    fn new_ones(&self) -> Vec<N::Path>;
    /// The narinfos that the marking has seen with other contents.
    fn changed_ones(&self) -> Vec<N::Path>;
}

/// What a collection takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Taken<N: Names> {
    /// The paths. With each path, all its referrers.
    pub paths: N::Paths,
    /// The NARs.
    pub nars: N::Nars,
}

impl<N: Names> Default for Taken<N> {
    fn default() -> Self {
        Self { paths: N::Paths::default(), nars: N::Nars::default() }
    }
}

impl<N: Names> Taken<N> {
    /// Whether nothing is taken.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.nars.is_empty()
    }
}

/// What may be condemned of `wanted`: a path goes only with all its referrers. `referrers` and `references` tell those that
/// the marking has read. The time is linear in `wanted` and what it refers to.
pub fn condemn<N: Names>(
    wanted: N::Paths,
    referrers: impl Fn(&N::Path) -> Vec<N::Path>,
    references: impl Fn(&N::Path) -> Vec<N::Path>,
    rules: Rules,
) -> N::Paths {
    let mut condemned = wanted;
    if !rules.has(Rule::CondemnReferrers) {
        return condemned;
    }
    let stays = |path: &N::Path| referrers(path).iter().any(|referrer| !condemned.contains(referrer));
    let mut out: Vec<_> = condemned.items().filter(stays).collect();
    // A path that stays makes all that it refers to stay.
    while let Some(path) = out.pop() {
        if condemned.contains(&path) {
            condemned.remove(&path);
            out.extend(references(&path));
        }
    }
    condemned
}

/// What the last look has read, besides the narinfos. All living writers have acknowledged `closing` before. For a removal,
/// both are empty: neither keeps what a person has removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kept<N: Names> {
    /// The paths of pins, of records of sessions, and of rules: read again.
    pub recorded: N::Paths,
    /// The paths of rescues in this collection.
    pub rescued: N::Paths,
}

/// The last look: what of `condemned` is taken. The result is upward closed if `condemned` is.
pub fn last_look<N: Names>(
    condemned: &Taken<N>,
    kept: &Kept<N>,
    narinfos: &impl Narinfos<N>,
    rules: Rules,
) -> Taken<N> {
    let mut taken = condemned.clone();
    let mut roots: Vec<N::Path> = Vec::new();
    if rules.has(Rule::ReadRecordsAgain) {
        roots.extend(kept.recorded.items());
    }
    if rules.has(Rule::ReadRescues) {
        roots.extend(kept.rescued.items());
    }
    // A narinfo that is not condemned and has not changed refers to nothing that is condemned. Those that have changed are
    // read, whether they are condemned or not.
    let mut changed = N::Paths::default();
    let new = if rules.has(Rule::ReadNewNarinfos) { narinfos.new_ones() } else { Vec::new() };
    let again = if rules.has(Rule::ReadChangedNarinfos) { narinfos.changed_ones() } else { Vec::new() };
    for path in new.into_iter().chain(again) {
        changed.insert(path.clone());
        roots.push(path);
    }
    while let Some(path) = roots.pop() {
        let was_taken = taken.paths.contains(&path);
        if !was_taken && !changed.contains(&path) {
            continue;
        }
        taken.paths.remove(&path);
        changed.remove(&path);
        if let Some((references, nar)) = narinfos.read(&path) {
            taken.nars.remove(&nar);
            if rules.has(Rule::KeepClosures) {
                roots.extend(references);
            }
        }
    }
    taken
}

/// The levels in which `paths` are deleted: all referrers of a path are in levels before its own. `references` tells the
/// references of a path. Paths that refer to each other, which Nix never writes, share a level with what is between them.
pub fn levels<N: Names>(
    paths: &N::Paths,
    references: impl Fn(&N::Path) -> Vec<N::Path>,
    rules: Rules,
) -> Vec<N::Paths> {
    if !rules.has(Rule::DeleteByLevels) {
        return if paths.is_empty() { Vec::new() } else { vec![paths.clone()] };
    }
    let below = |path: &N::Path| {
        let others = references(path).into_iter().filter(|reference| reference != path);
        others.filter(|reference| paths.contains(reference)).collect::<Vec<_>>()
    };
    let mut left = paths.clone();
    let mut levels = peel::<N>(&mut left, below);
    if left.is_empty() {
        return levels;
    }
    // What lies below all cycles is taken from the other end.
    let mut referrers: HashMap<N::Path, Vec<N::Path>> = HashMap::new();
    for path in left.items() {
        below(&path).into_iter().for_each(|below| referrers.entry(below).or_default().push(path.clone()));
    }
    let lowest = peel::<N>(&mut left, |path| referrers.get(path).cloned().unwrap_or_default());
    levels.push(left);
    levels.extend(lowest.into_iter().rev());
    levels
}

/// Takes out of `left`, level by level, what no path that is left leads to. `next` tells the paths to which a path leads; those
/// that are not in `left` do not count.
fn peel<N: Names>(left: &mut N::Paths, next: impl Fn(&N::Path) -> Vec<N::Path>) -> Vec<N::Paths> {
    // For each path, the number of paths that lead to it and that no level has yet.
    let mut count: HashMap<N::Path, usize> = left.items().map(|path| (path, 0)).collect();
    for path in left.items().flat_map(|path| next(&path)) {
        count.entry(path).and_modify(|count| *count += 1);
    }
    let mut free: Vec<N::Path> = left.items().filter(|path| count[path] == 0).collect();
    let mut levels = Vec::new();
    while !free.is_empty() {
        let mut level = N::Paths::default();
        let mut later = Vec::new();
        for path in free {
            for path in next(&path) {
                if let Some(count) = count.get_mut(&path) {
                    *count -= 1;
                    later.extend((*count == 0).then_some(path));
                }
            }
            left.remove(&path);
            level.insert(path);
        }
        levels.push(level);
        free = later;
    }
    levels
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
