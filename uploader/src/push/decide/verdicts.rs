//! Judges each path of a closure by the rules, before the bucket is asked.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::{self, available_parallelism};

use nix_derivation::StoreDir;

use super::graph::{Graph, referrers};
use super::request::Request;
use super::rules::{Rules, Verdict};
use crate::format::path_info::PathInfo;
use crate::store::Closure;

/// The verdicts on the paths of a closure.
#[derive(Debug)]
pub struct Verdicts {
    pub(super) graph: Graph,
    /// One verdict for each path with path info, in the order of the closure.
    pub(super) verdicts: Vec<Verdict>,
}

impl Verdicts {
    /// The paths whose presence in the bucket decides the plan.
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

/// From this number of paths on, each processor judges a part of them. The check of a signature takes about 50 µs.
const MANY: usize = 1000;

/// Judges each path of a closure.
pub fn judge(store_dir: &StoreDir, request: &Request, closure: &Closure, rules: &Rules) -> Verdicts {
    let graph = Graph::of(closure);
    let built_here = built_here(request, closure, &graph);
    let nodes: Vec<_> = closure.infos.values().zip(built_here).collect();
    let judge = |nodes: &[(&Arc<PathInfo>, bool)]| -> Vec<Verdict> {
        nodes.iter().map(|(info, here)| rules.judge(store_dir, info, *here, &request.extra_keys)).collect()
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
    for (verdict, origin) in verdicts.iter_mut().zip(referrers(&graph, origins)) {
        if let (Verdict::Push | Verdict::Refused, Some(origin)) = (&verdict, origin) {
            let origin = nodes[origin as usize].0.path.to_basename();
            *verdict = Verdict::Excluded(format!("it refers to `{origin}`, which is excluded"));
        }
    }
    Verdicts { graph, verdicts }
}

/// For each node: whether this machine built the path, or used it in a build. This machine has trusted these paths
/// already.
fn built_here(request: &Request, closure: &Closure, graph: &Graph) -> Vec<bool> {
    let told: HashSet<_> =
        request.roots.iter().filter(|root| root.built_here).map(|root| &*root.path).collect();
    let known = |info: &PathInfo| info.ultimate || told.contains(&*info.path);
    let infos = (0..).zip(closure.infos.values());
    let mut next: Vec<u32> = infos.filter(|(_, info)| known(info)).map(|(node, _)| node).collect();
    let mut reached = vec![false; graph.len()];
    while let Some(node) = next.pop() {
        if !std::mem::replace(&mut reached[node as usize], true) {
            next.extend(graph.from(node));
        }
    }
    reached
}
