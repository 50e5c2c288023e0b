//! The plan of a push: what happens to every path of the closure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use nix_derivation::StorePath;

use super::graph::{Graph, prerequisites, referrers};
use super::request::Request;
use super::rules::{REFUSED, Verdict};
use super::verdicts::Verdicts;
use crate::format::path_info::PathInfo;
use crate::push::outcome::{Outcome, Report};
use crate::store::Closure;
use crate::survey::Presence;

/// The work on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Upload the NAR and publish the narinfo.
    Upload,
    /// Add our signatures to the narinfo in the bucket.
    Sign,
}

/// A path with work to do.
#[derive(Clone, Debug)]
pub struct Todo {
    /// The path.
    pub info: Arc<PathInfo>,
    /// The work.
    pub action: Action,
}

/// The work of a push, and the outcomes that need no work.
#[derive(Debug, Default)]
pub struct Plan {
    /// The work.
    pub todo: Vec<Todo>,
    /// For each path of `todo`: the places in `todo` of the paths that must be published before it.
    pub references: Vec<Vec<usize>>,
    /// The outcomes of the other paths: no work is needed, or none is possible.
    pub settled: Report,
    /// The paths in the bucket that refer to work. Their outcomes depend on it.
    pub above_work: AboveWork,
}

/// The paths in the bucket that refer to work, directly or below paths without work: a client can take each of them only
/// if the work below it succeeds.
#[derive(Debug, Default)]
pub struct AboveWork {
    /// The paths, with their nodes in `graph`, and their outcomes if all work succeeds.
    paths: Vec<(u32, Arc<StorePath>, Outcome)>,
    /// The nodes of the work, in the order of [`Plan::todo`].
    work: Vec<u32>,
    graph: Graph,
}

impl AboveWork {
    /// The outcomes if all work succeeds.
    pub fn outcomes(self) -> impl Iterator<Item = (Arc<StorePath>, Outcome)> {
        self.paths.into_iter().map(|(_, path, outcome)| (path, outcome))
    }

    /// The outcomes after the work. `failed` holds, for each place in [`Plan::todo`] whose work has failed, the path
    /// that is to blame.
    pub fn outcomes_after(self, failed: &BTreeMap<usize, Arc<StorePath>>) -> Vec<(Arc<StorePath>, Outcome)> {
        let blame: HashMap<u32, _> = failed.iter().map(|(place, by)| (self.work[*place], by)).collect();
        let reached = referrers(&self.graph, blame.keys().copied().collect());
        let outcome = |node: u32, outcome| match reached[node as usize].and_then(|origin| blame.get(&origin))
        {
            Some(by) => Outcome::Blocked { by: (*by).clone() },
            None => outcome,
        };
        self.paths.into_iter().map(|(node, path, before)| (path, outcome(node, before))).collect()
    }
}

/// What happens to a path: its outcome is settled, or there is work to do.
type Fate = Result<Outcome, Action>;

/// Makes the plan from a closure, the verdicts on its paths, and their presence in the bucket.
pub fn plan(
    request: &Request,
    closure: Closure,
    verdicts: Verdicts,
    mut presence: HashMap<Arc<StorePath>, Presence>,
) -> Plan {
    let Verdicts { graph, verdicts } = verdicts;
    let roots: HashSet<_> = request.roots.iter().map(|root| &*root.path).collect();
    let judged = closure.infos.keys().zip(verdicts);
    let mut fates: Vec<_> =
        judged.map(|(path, verdict)| fate(request, &roots, path, verdict, presence.remove(path))).collect();
    drop(presence);
    fates.extend(closure.missing.iter().map(|_| Ok(Outcome::Gone)));
    let paths: Vec<_> = closure.infos.keys().chain(&closure.missing).cloned().collect();
    block(&graph, &paths, &mut fates);

    let work = nodes(&fates, Result::is_err);
    let references = prerequisites(&graph, &work);
    let refers_to_work = referrers(&graph, work.clone());
    let mut todo = Vec::with_capacity(work.len());
    let mut settled = Vec::with_capacity(paths.len() - work.len());
    // Missing paths come last. They have no path info, and their fate is settled.
    let infos = closure.infos.into_values().map(Some).chain(std::iter::repeat(None));
    let mut above = Vec::new();
    for (node, ((path, info), fate)) in (0..).zip(paths.into_iter().zip(infos).zip(fates)) {
        match (fate, info) {
            (Err(action), Some(info)) => todo.push(Todo { info, action }),
            (Err(_), None) => {}
            // The report leaves out a path that blocks others and that the request does not name.
            (Ok(Outcome::Blocked { by }), _) if request.no_closure && by == path && !roots.contains(&*by) => {
            }
            (Ok(outcome), _) if is_in_bucket(&outcome) && refers_to_work[node as usize].is_some() => {
                above.push((node, path, outcome));
            }
            (Ok(outcome), _) => settled.push((path, outcome)),
        }
    }
    let above_work = AboveWork { paths: above, work, graph };
    Plan {
        todo,
        references,
        settled: Report { outcomes: settled.into_iter().collect(), since: None },
        above_work,
    }
}

/// Whether the narinfo of a settled path is in the bucket.
fn is_in_bucket(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Present | Outcome::Differs { .. })
}

/// The fate of a path, without regard to its references. A path that may not be pushed is blocked by itself.
fn fate(
    request: &Request,
    roots: &HashSet<&StorePath>,
    path: &Arc<StorePath>,
    verdict: Verdict,
    presence: Option<Presence>,
) -> Fate {
    Ok(match (verdict, presence) {
        (Verdict::Upstream, _) => Outcome::Upstream,
        (Verdict::Excluded(reason), _) => Outcome::Excluded(reason),
        (_, Some(Presence::Unknown(error))) => Outcome::Failed(error),
        (_, Some(Presence::Complete)) => Outcome::Present,
        (_, Some(Presence::Differs { signer })) => Outcome::Differs { signer },
        (_, Some(Presence::Unusable(reason))) => Outcome::Unusable(reason),
        // A trusted key signed the narinfo. larder does not add its own signature.
        (Verdict::Refused, Some(Presence::LacksSignatures { accepted: true })) => Outcome::Present,
        (Verdict::Refused, _) => Outcome::Refused(REFUSED.into()),
        (Verdict::Push | Verdict::PushByClosure, Some(Presence::LacksSignatures { .. })) => {
            return Err(Action::Sign);
        }
        (Verdict::Push | Verdict::PushByClosure, _) => {
            let left_out = request.no_closure && !roots.contains(&**path);
            if !left_out && !request.parked.contains(&**path) {
                return Err(Action::Upload);
            }
            Outcome::Blocked { by: path.clone() }
        }
    })
}

/// Blocks every path that refers to a path which will not be available: its work, and the path itself if it is in the
/// bucket already.
fn block(graph: &Graph, paths: &[Arc<StorePath>], fates: &mut [Fate]) {
    let obstacles = nodes(fates, |fate| fate.as_ref().is_ok_and(|outcome| !outcome.is_available()));
    for (fate, by) in fates.iter_mut().zip(referrers(graph, obstacles)) {
        let needs_references = fate.as_ref().map_or(true, is_in_bucket);
        if let (true, Some(by)) = (needs_references, by) {
            *fate = Ok(Outcome::Blocked { by: paths[by as usize].clone() });
        }
    }
}

/// The nodes with a fate that is `wanted`.
fn nodes(fates: &[Fate], wanted: fn(&Fate) -> bool) -> Vec<u32> {
    (0..).zip(fates).filter(|(_, fate)| wanted(fate)).map(|(node, _)| node).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
