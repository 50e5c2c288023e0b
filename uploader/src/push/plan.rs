//! What has to be done for a request: every path of the closure gets its place. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nix_derivation::{StoreDir, StorePath};
use nix_narinfo::TrustedPublicKey;

use super::outcome::{Outcome, Report};
use super::policy::{Policy, REFUSED, Verdict};
use crate::error::Error;
use crate::store::{Closure, PathInfo};

/// A path that somebody wants in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The path.
    pub path: StorePath,
    /// Whether it was built here, by the word of the hook; what the store calls `ultimate` is believed without it.
    pub built_here: bool,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The paths.
    pub roots: Vec<Root>,
    /// Push only these, not their closure; what they refer to must be there already.
    pub no_closure: bool,
    /// Find out what would be done, and do nothing.
    pub dry_run: bool,
    /// Keys that Nix trusted when the paths were queued.
    pub extra_keys: Vec<TrustedPublicKey>,
    /// Paths that wait for somebody's decision and are not tried.
    pub parked: BTreeSet<StorePath>,
}

/// What the bucket has of a path.
#[derive(Clone, Debug)]
pub enum Presence {
    /// No narinfo.
    Absent,
    /// A narinfo with our signatures, or one that needs none of ours.
    Complete,
    /// A narinfo that lacks signatures of ours.
    LacksSignatures,
    /// A narinfo of other contents.
    Differs,
    /// It could not be found out, or the narinfo is malformed.
    Unknown(Error),
}

/// What is done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Upload the NAR and publish the narinfo.
    Upload,
    /// Publish the standing narinfo with our signatures added.
    Sign,
}

/// A path on which something has to be done.
#[derive(Clone, Debug)]
pub struct Todo {
    /// The path.
    pub info: Arc<PathInfo>,
    /// What.
    pub action: Action,
}

/// What has to be done, and what is settled already.
#[derive(Debug, Default)]
pub struct Plan {
    /// The work.
    pub todo: Vec<Todo>,
    /// For each of it, which others must be published before.
    pub references: Vec<Vec<usize>>,
    /// The paths on which nothing has to be, or can be, done.
    pub settled: Report,
}

/// What the rules say of each path of a closure.
pub type Verdicts = BTreeMap<StorePath, Verdict>;

/// Judges a closure by the rules, before the bucket is asked.
pub fn judge(store_dir: &StoreDir, request: &Request, closure: &Closure, policy: &Policy) -> Verdicts {
    let built_here = built_here(request, closure);
    let mut verdicts: Verdicts = closure
        .infos
        .iter()
        .map(|(path, info)| (path.clone(), policy.judge(store_dir, info, &built_here, &request.extra_keys)))
        .collect();
    let excluded: Vec<_> = verdicts
        .iter()
        .filter(|(_, verdict)| matches!(verdict, Verdict::Excluded(_)))
        .map(|(path, _)| path.clone())
        .collect();
    for (path, origin) in above(closure, excluded) {
        if let Some(verdict @ (Verdict::Push | Verdict::Refused)) = verdicts.get_mut(&path) {
            *verdict =
                Verdict::Excluded(format!("it refers to `{}`, which is excluded", origin.to_basename()));
        }
    }
    verdicts
}

/// What was built here, with everything that those builds could see: this machine has trusted it already.
fn built_here(request: &Request, closure: &Closure) -> BTreeSet<StorePath> {
    let told = request.roots.iter().filter(|root| root.built_here).map(|root| root.path.clone());
    let known = closure.infos.values().filter(|info| info.ultimate).map(|info| info.path.clone());
    let mut reached = BTreeSet::new();
    let mut next: Vec<_> = told.chain(known).collect();
    while let Some(path) = next.pop() {
        if let (Some(info), true) = (closure.infos.get(&path), reached.insert(path)) {
            next.extend(info.dependencies().cloned());
        }
    }
    reached
}

/// Everything that refers to one of `origins`, directly or not, with the one it was reached from.
fn above(closure: &Closure, origins: Vec<StorePath>) -> BTreeMap<StorePath, StorePath> {
    let mut referrers: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
    if !origins.is_empty() {
        for info in closure.infos.values() {
            info.dependencies()
                .for_each(|reference| referrers.entry(reference).or_default().push(&info.path));
        }
    }
    let mut reached = BTreeMap::new();
    let mut next: Vec<_> = origins.into_iter().map(|origin| (origin.clone(), origin)).collect();
    while let Some((path, origin)) = next.pop() {
        for referrer in referrers.get(&path).into_iter().flatten() {
            if !reached.contains_key(*referrer) {
                reached.insert((*referrer).clone(), origin.clone());
                next.push(((*referrer).clone(), origin.clone()));
            }
        }
    }
    reached
}

/// Puts closure, verdicts and what the bucket has together.
pub fn plan(
    request: &Request,
    closure: Closure,
    verdicts: &Verdicts,
    presence: &HashMap<StorePath, Presence>,
) -> Plan {
    let roots: BTreeSet<_> = request.roots.iter().map(|root| &root.path).collect();
    let mut settled = BTreeMap::new();
    let mut actions = BTreeMap::new();
    for path in closure.infos.keys() {
        let outcome = match (&verdicts[path], presence.get(path)) {
            (Verdict::Upstream, _) => Outcome::Upstream,
            (Verdict::Excluded(reason), _) => Outcome::Excluded(reason.clone()),
            (_, Some(Presence::Unknown(error))) => Outcome::Failed(error.clone()),
            (_, Some(Presence::Complete)) => Outcome::Present,
            (_, Some(Presence::Differs)) => Outcome::Differs,
            // It stands with somebody else's signature, or with none: not ours to vouch for.
            (Verdict::Refused, Some(Presence::LacksSignatures)) => Outcome::Present,
            (Verdict::Refused, _) => Outcome::Refused(REFUSED.into()),
            (Verdict::Push, Some(Presence::LacksSignatures)) => {
                actions.insert(path.clone(), Action::Sign);
                continue;
            }
            (Verdict::Push, _) if request.parked.contains(path) => Outcome::Blocked { by: path.clone() },
            (Verdict::Push, _) if request.no_closure && !roots.contains(path) => {
                Outcome::Blocked { by: path.clone() }
            }
            (Verdict::Push, _) => {
                actions.insert(path.clone(), Action::Upload);
                continue;
            }
        };
        settled.insert(path.clone(), outcome);
    }
    settled.extend(closure.missing.iter().map(|path| (path.clone(), Outcome::Gone)));

    // What cannot be made available keeps out everything above it.
    let obstacles =
        settled.iter().filter(|(_, outcome)| !outcome.is_available()).map(|(path, _)| path.clone()).collect();
    for (path, by) in above(&closure, obstacles) {
        if actions.remove(&path).is_some() {
            settled.insert(path, Outcome::Blocked { by });
        }
    }
    if request.no_closure {
        // Members of the closure that were not asked for are only obstacles.
        settled.retain(|path, outcome| {
            roots.contains(path) || !matches!(outcome, Outcome::Blocked { by } if by == path)
        });
    }

    let numbers: BTreeMap<_, _> = actions.keys().cloned().enumerate().map(|(n, path)| (path, n)).collect();
    let above_work = above(&closure, numbers.keys().cloned().collect());
    let mut infos = closure.infos;
    let todo: Vec<_> = actions
        .into_iter()
        .filter_map(|(path, action)| infos.remove(&path).map(|info| Todo { info, action }))
        .collect();
    let references = todo.iter().map(|todo| nearest(&todo.info, &infos, &numbers, &above_work)).collect();
    Plan { todo, references, settled: Report { outcomes: settled } }
}

/// The work that must be done before `info` is published: its references, and what lies below those of them on which
/// there is nothing to do. A path that is there already may have been pushed by a machine with another policy, so that
/// something below it is missing. Only such paths, which are in `above_work`, are worth descending into.
fn nearest(
    info: &PathInfo,
    settled: &BTreeMap<StorePath, Arc<PathInfo>>,
    numbers: &BTreeMap<StorePath, usize>,
    above_work: &BTreeMap<StorePath, StorePath>,
) -> Vec<usize> {
    let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
    let mut next: Vec<&StorePath> = info.dependencies().collect();
    while let Some(path) = next.pop() {
        if !seen.insert(path) {
            continue;
        }
        match (numbers.get(path), settled.get(path)) {
            (Some(number), _) => drop(found.insert(*number)),
            (None, Some(info)) if above_work.contains_key(path) => next.extend(info.dependencies()),
            (None, _) => {}
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
