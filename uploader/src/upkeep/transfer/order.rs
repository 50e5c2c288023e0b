//! Decides which paths are carried, and in which order, without I/O: a path only with all that it refers to.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::survey::{Found, State};
use crate::format::repointing::Claim;
use crate::session::HashPart;

/// What is done with the paths.
#[derive(Debug, Default)]
pub struct Decided {
    /// The paths to carry or to sign; whether the NAR is carried.
    pub todo: Vec<(Box<Claim>, bool)>,
    /// For each of them, the places of the paths that come before it.
    pub references: Vec<Vec<usize>>,
    /// The paths that stay, each with the reason.
    pub left: BTreeMap<HashPart, String>,
    /// The paths of which the bucket has other contents, each with the name of the key.
    pub differs: BTreeMap<HashPart, String>,
    /// The number of paths that clients can take already, from the bucket or from upstream.
    pub present: usize,
}

/// Decides. A path that refers to one that stays, stays, too. A path of which the bucket has other contents can be referred to:
/// clients take what the bucket has.
pub fn order(found: Found) -> Decided {
    let mut decided = Decided::default();
    let mut referrers: HashMap<HashPart, Vec<HashPart>> = HashMap::new();
    for (digest, state) in &found {
        for reference in state.claim().into_iter().flat_map(|claim| claim.info.dependencies()) {
            referrers.entry(*reference.digest()).or_default().push(*digest);
        }
    }
    let mut next = Vec::new();
    for (digest, state) in &found {
        if let State::Left(reason) = state {
            decided.left.insert(*digest, reason.clone());
            next.push(*digest);
        }
    }
    let mut broken: HashSet<HashPart> = next.iter().copied().collect();
    while let Some(below) = next.pop() {
        for above in referrers.get(&below).into_iter().flatten() {
            if !broken.insert(*above) {
                continue;
            }
            next.push(*above);
            // What the bucket has already stays there.
            if matches!(found.get(above), Some(State::Carry(_) | State::Sign(_))) {
                let name = name_of(&found, &below);
                decided.left.insert(*above, format!("it refers to `{name}`, which clients cannot take"));
            }
        }
    }
    let mut places: HashMap<HashPart, usize> = HashMap::new();
    for (digest, state) in found {
        match state {
            _ if decided.left.contains_key(&digest) => {}
            State::Differs(signer) => drop(decided.differs.insert(digest, signer)),
            State::Present(_) | State::There | State::Upstream | State::Left(_) => decided.present += 1,
            State::Carry(claim) | State::Sign(claim) if places.contains_key(&digest) => drop(claim),
            State::Carry(claim) => {
                places.insert(digest, decided.todo.len());
                decided.todo.push((claim, true));
            }
            State::Sign(claim) => {
                places.insert(digest, decided.todo.len());
                decided.todo.push((claim, false));
            }
        }
    }
    decided.references = decided
        .todo
        .iter()
        .map(|(claim, _)| {
            claim.info.dependencies().filter_map(|path| places.get(path.digest()).copied()).collect()
        })
        .collect();
    break_cycles(&mut decided);
    decided
}

fn name_of(found: &Found, digest: &HashPart) -> String {
    match found.get(digest).and_then(State::claim) {
        Some(claim) => claim.info.path.to_basename().to_string(),
        None => nix_derivation::nixbase32::encode(digest),
    }
}

/// Leaves paths that refer to each other, which only a hostile cache has, and all above them.
fn break_cycles(decided: &mut Decided) {
    let mut waits: Vec<usize> = decided.references.iter().map(Vec::len).collect();
    let mut above = vec![Vec::new(); waits.len()];
    for (place, references) in decided.references.iter().enumerate() {
        references.iter().for_each(|reference| above[*reference].push(place));
    }
    let mut next: Vec<usize> = (0..waits.len()).filter(|place| waits[*place] == 0).collect();
    let mut is_ordered = vec![false; waits.len()];
    while let Some(place) = next.pop() {
        is_ordered[place] = true;
        for referrer in &above[place] {
            waits[*referrer] -= 1;
            if waits[*referrer] == 0 {
                next.push(*referrer);
            }
        }
    }
    if is_ordered.iter().all(|ordered| *ordered) {
        return;
    }
    let mut new_places = vec![None; waits.len()];
    let (mut todo, mut references) = (Vec::new(), Vec::new());
    let old = std::mem::take(&mut decided.todo).into_iter().zip(std::mem::take(&mut decided.references));
    for (place, ((claim, carries), below)) in old.enumerate() {
        if is_ordered[place] {
            new_places[place] = Some(todo.len());
            todo.push((claim, carries));
            references.push(below);
        } else {
            let reason = "it refers to a path that refers to it".to_owned();
            decided.left.insert(*claim.info.path.digest(), reason);
        }
    }
    let moved = |below: Vec<usize>| below.into_iter().filter_map(|place| new_places[place]).collect();
    decided.todo = todo;
    decided.references = references.into_iter().map(moved).collect();
}
