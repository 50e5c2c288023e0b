//! What has to be done for a request: every path of the closure gets its place. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::thread::{self, available_parallelism};

use nix_derivation::{StoreDir, StorePath};
use nix_narinfo::TrustedPublicKey;

use super::rules::{Policy, REFUSED, Verdict};
use crate::base::error::Error;
use crate::format::path_info::PathInfo;
use crate::push::outcome::{Outcome, Report};
use crate::store::Closure;

/// A path that somebody wants in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The path.
    pub path: Arc<StorePath>,
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
    /// Read each narinfo that is there, also where a listing tells enough.
    pub read_all: bool,
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
#[derive(Debug)]
pub struct Verdicts {
    edges: Edges,
    /// In the order of the closure.
    verdicts: Vec<Verdict>,
}

impl Verdicts {
    /// The paths of which the bucket has to be asked.
    pub fn asked<'a>(&self, closure: &'a Closure) -> impl Iterator<Item = &'a Arc<PathInfo>> {
        let asked = |verdict: &Verdict| matches!(verdict, Verdict::Push | Verdict::Refused);
        closure
            .infos
            .values()
            .zip(&self.verdicts)
            .filter(move |(_, verdict)| asked(verdict))
            .map(|(info, _)| info)
    }
}

/// From so many paths on, each processor judges a part of them: checking a signature takes about 50 µs.
const MANY: usize = 1000;

/// Judges a closure by the rules, before the bucket is asked.
pub fn judge(store_dir: &StoreDir, request: &Request, closure: &Closure, policy: &Policy) -> Verdicts {
    let edges = Edges::of(closure);
    let built_here = built_here(request, closure, &edges);
    let nodes: Vec<_> = closure.infos.values().zip(built_here).collect();
    let judge = |nodes: &[(&Arc<PathInfo>, bool)]| -> Vec<Verdict> {
        nodes.iter().map(|(info, here)| policy.judge(store_dir, info, *here, &request.extra_keys)).collect()
    };
    let processors = if nodes.len() < MANY { 1 } else { available_parallelism().map_or(1, usize::from) };
    let (first, rest) = nodes.split_at(nodes.len().div_ceil(processors));
    let mut verdicts = thread::scope(|scope| {
        let part = nodes.len().div_ceil(processors).max(1);
        let others: Vec<_> = rest.chunks(part).map(|part| scope.spawn(move || judge(part))).collect();
        let mut verdicts = judge(first);
        for other in others {
            verdicts.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        verdicts
    });
    let excluded = |verdict: &Verdict| matches!(verdict, Verdict::Excluded(_));
    let origins =
        (0..).zip(&verdicts).filter(|(_, verdict)| excluded(verdict)).map(|(node, _)| node).collect();
    for (verdict, origin) in verdicts.iter_mut().zip(above(&edges, origins)) {
        if let (Verdict::Push | Verdict::Refused, Some(origin)) = (&verdict, origin) {
            let origin = nodes[origin as usize].0.path.to_basename();
            *verdict = Verdict::Excluded(format!("it refers to `{origin}`, which is excluded"));
        }
    }
    Verdicts { edges, verdicts }
}

/// What was built here, with everything that those builds could see: this machine has trusted it already.
fn built_here(request: &Request, closure: &Closure, edges: &Edges) -> Vec<bool> {
    let told: HashSet<_> =
        request.roots.iter().filter(|root| root.built_here).map(|root| &*root.path).collect();
    let known = |info: &PathInfo| info.ultimate || told.contains(&*info.path);
    let infos = (0..).zip(closure.infos.values());
    let mut next: Vec<u32> = infos.filter(|(_, info)| known(info)).map(|(node, _)| node).collect();
    let mut reached = vec![false; edges.len()];
    while let Some(node) = next.pop() {
        if !std::mem::replace(&mut reached[node as usize], true) {
            next.extend(edges.from(node));
        }
    }
    reached
}

/// Everything that refers to one of `origins`, directly or not, with the one it was reached from.
fn above(edges: &Edges, origins: Vec<u32>) -> Vec<Option<u32>> {
    let mut reached = vec![None; edges.len()];
    if !origins.is_empty() {
        let referrers = edges.reversed();
        let mut next: Vec<_> = origins.into_iter().map(|origin| (origin, origin)).collect();
        while let Some((node, origin)) = next.pop() {
            for referrer in referrers.from(node) {
                if reached[*referrer as usize].is_none() {
                    reached[*referrer as usize] = Some(origin);
                    next.push((*referrer, origin));
                }
            }
        }
    }
    reached
}

/// Puts closure, verdicts and what the bucket has together.
pub fn plan(
    request: &Request,
    closure: Closure,
    verdicts: Verdicts,
    mut presence: HashMap<Arc<StorePath>, Presence>,
) -> Plan {
    let Verdicts { edges, verdicts } = verdicts;
    let roots: HashSet<_> = request.roots.iter().map(|root| &*root.path).collect();
    // What is settled, or else what is to be done.
    let mut fates: Vec<Result<Outcome, Action>> = Vec::with_capacity(verdicts.len());
    for (path, verdict) in closure.infos.keys().zip(verdicts) {
        fates.push(Ok(match (verdict, presence.remove(path)) {
            (Verdict::Upstream, _) => Outcome::Upstream,
            (Verdict::Excluded(reason), _) => Outcome::Excluded(reason),
            (_, Some(Presence::Unknown(error))) => Outcome::Failed(error),
            (_, Some(Presence::Complete)) => Outcome::Present,
            (_, Some(Presence::Differs)) => Outcome::Differs,
            // It stands with somebody else's signature, or with none: not ours to vouch for.
            (Verdict::Refused, Some(Presence::LacksSignatures)) => Outcome::Present,
            (Verdict::Refused, _) => Outcome::Refused(REFUSED.into()),
            (Verdict::Push, Some(Presence::LacksSignatures)) => {
                fates.push(Err(Action::Sign));
                continue;
            }
            (Verdict::Push, _) if request.parked.contains(&**path) => Outcome::Blocked { by: path.clone() },
            (Verdict::Push, _) if request.no_closure && !roots.contains(&**path) => {
                Outcome::Blocked { by: path.clone() }
            }
            (Verdict::Push, _) => {
                fates.push(Err(Action::Upload));
                continue;
            }
        }));
    }
    drop(presence);
    fates.extend(closure.missing.iter().map(|_| Ok(Outcome::Gone)));

    let paths: Vec<_> = closure.infos.keys().chain(&closure.missing).cloned().collect();
    let nodes = |fates: &[Result<Outcome, Action>], wanted: fn(&Result<Outcome, Action>) -> bool| {
        (0..).zip(fates).filter(|(_, fate)| wanted(fate)).map(|(node, _)| node).collect::<Vec<u32>>()
    };
    // What cannot be made available keeps out everything above it.
    let obstacles = nodes(&fates, |fate| fate.as_ref().is_ok_and(|outcome| !outcome.is_available()));
    for (fate, by) in fates.iter_mut().zip(above(&edges, obstacles)) {
        if let (Err(_), Some(by)) = (&fate, by) {
            *fate = Ok(Outcome::Blocked { by: paths[by as usize].clone() });
        }
    }

    let work = nodes(&fates, Result::is_err);
    let references = nearest(&edges, &work);
    let mut todo = Vec::with_capacity(work.len());
    let mut settled = Vec::with_capacity(paths.len() - work.len());
    // What is missing comes last, and is settled.
    let infos = closure.infos.into_values().map(Some).chain(std::iter::repeat(None));
    for ((path, info), fate) in paths.into_iter().zip(infos).zip(fates) {
        match (fate, info) {
            (Err(action), Some(info)) => todo.push(Todo { info, action }),
            (Err(_), None) => {}
            // Members of the closure that were not asked for are only obstacles.
            (Ok(Outcome::Blocked { by }), _) if request.no_closure && by == path && !roots.contains(&*by) => {
            }
            (Ok(outcome), _) => settled.push((path, outcome)),
        }
    }
    Plan { todo, references, settled: Report { outcomes: settled.into_iter().collect() } }
}

/// For each node of `work`, by its place there: which others must be done before. Those are its references, and what
/// lies below those of them on which nothing is done: one that stands in the bucket may lack something beneath.
fn nearest(edges: &Edges, work: &[u32]) -> Vec<Vec<usize>> {
    let mut places = vec![None; edges.len()];
    work.iter().enumerate().for_each(|(place, node)| places[*node as usize] = Some(place));
    let above_work = above(edges, work.to_vec());
    let mut seen = vec![u32::MAX; edges.len()];
    let below = |start: &u32| {
        let (mut found, mut next) = (Vec::new(), edges.from(*start).to_vec());
        while let Some(node) = next.pop() {
            if std::mem::replace(&mut seen[node as usize], *start) == *start {
                continue;
            }
            match places[node as usize] {
                Some(place) => found.push(place),
                None if above_work[node as usize].is_some() => next.extend(edges.from(node)),
                None => {}
            }
        }
        found.sort_unstable();
        found
    };
    work.iter().map(below).collect()
}

/// What refers to what in a closure. Paths are numbered in their order, those that are missing after the others;
/// references to themselves are left out.
#[derive(Debug)]
struct Edges {
    /// Where the targets of each node end.
    ends: Vec<u32>,
    targets: Vec<u32>,
}

impl Edges {
    fn of(closure: &Closure) -> Self {
        let paths = closure.infos.keys().chain(&closure.missing);
        let numbers: HashMap<&StorePath, u32> = paths.map(|path| &**path).zip(0..).collect();
        let (mut ends, mut targets) = (Vec::with_capacity(numbers.len()), Vec::new());
        for info in closure.infos.values() {
            targets.extend(info.dependencies().filter_map(|path| numbers.get(&**path)));
            ends.push(targets.len() as u32);
        }
        ends.extend(closure.missing.iter().map(|_| targets.len() as u32));
        Self { ends, targets }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn from(&self, node: u32) -> &[u32] {
        let node = node as usize;
        let start = node.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.targets[start as usize..self.ends[node] as usize]
    }

    fn reversed(&self) -> Self {
        let mut starts = vec![0; self.len()];
        self.targets.iter().for_each(|target| starts[*target as usize] += 1);
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        // Each start moves on to its end.
        let mut targets = vec![0; self.targets.len()];
        for node in 0..self.len() as u32 {
            for target in self.from(node) {
                let place = &mut starts[*target as usize];
                targets[*place as usize] = node;
                *place += 1;
            }
        }
        Self { ends: starts, targets }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
