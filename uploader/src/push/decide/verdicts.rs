//! Judges each path of a closure by the rules, before the bucket is asked.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::{self, available_parallelism};

use nix_derivation::{StoreDir, StorePath};

use super::graph::{Graph, referrers};
use super::request::Request;
use super::rules::{Origin, Rules, Verdict};
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
        self.infos(closure, |verdict| {
            matches!(verdict, Verdict::Push | Verdict::PushByClosure | Verdict::Refused)
        })
    }

    /// The paths that may be signed only because a path that was built here refers to them.
    pub fn by_closure(&self, closure: &Closure) -> HashSet<Arc<StorePath>> {
        let infos = self.infos(closure, |verdict| *verdict == Verdict::PushByClosure);
        infos.map(|info| info.path.clone()).collect()
    }

    /// The paths of the closure with a verdict that is `wanted`.
    fn infos<'a>(
        &self,
        closure: &'a Closure,
        wanted: fn(&Verdict) -> bool,
    ) -> impl Iterator<Item = &'a Arc<PathInfo>> {
        let infos = closure.infos.values().zip(&self.verdicts);
        infos.filter(move |(_, verdict)| wanted(verdict)).map(|(info, _)| info)
    }
}

/// From this number of paths on, each processor judges a part of them. The check of a signature takes about 50 µs.
const MANY: usize = 1000;

/// Judges each path of a closure.
pub fn judge(store_dir: &StoreDir, request: &Request, closure: &Closure, rules: &Rules) -> Verdicts {
    let graph = Graph::of(closure);
    let origins = origins(request, closure, &graph);
    let nodes: Vec<_> = closure.infos.values().zip(origins).collect();
    let judge = |nodes: &[(&Arc<PathInfo>, Origin)]| -> Vec<Verdict> {
        nodes
            .iter()
            .map(|(info, origin)| rules.judge(store_dir, info, *origin, &request.extra_keys))
            .collect()
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
    if !request.removed.is_empty() {
        for (verdict, (info, _)) in verdicts.iter_mut().zip(&nodes) {
            if request.removed.contains(info.path.digest()) {
                *verdict = Verdict::Excluded("`larder remove --purge` has removed it for good".into());
            }
        }
    }
    let excluded = |verdict: &Verdict| matches!(verdict, Verdict::Excluded(_));
    let origins =
        (0..).zip(&verdicts).filter(|(_, verdict)| excluded(verdict)).map(|(node, _)| node).collect();
    for (verdict, origin) in verdicts.iter_mut().zip(referrers(&graph, origins)) {
        if let (Verdict::Push | Verdict::PushByClosure | Verdict::Refused, Some(origin)) = (&verdict, origin)
        {
            let origin = nodes[origin as usize].0.path.to_basename();
            *verdict = Verdict::Excluded(format!("it refers to `{origin}`, which is excluded"));
        }
    }
    Verdicts { graph, verdicts }
}

/// What this machine has done with each path. It has trusted the paths that it used in a build already.
fn origins(request: &Request, closure: &Closure, graph: &Graph) -> Vec<Origin> {
    let told: HashSet<_> =
        request.roots.iter().filter(|root| root.built_here).map(|root| &*root.path).collect();
    let built = |info: &PathInfo| info.ultimate || told.contains(&*info.path);
    let mut origins = vec![Origin::Unknown; graph.len()];
    let mut next = Vec::new();
    for ((node, info), origin) in (0..).zip(closure.infos.values()).zip(&mut origins) {
        if built(info) {
            *origin = Origin::Built;
            next.extend(graph.from(node));
        }
    }
    while let Some(node) = next.pop() {
        let origin = &mut origins[node as usize];
        if *origin == Origin::Unknown {
            *origin = Origin::Used;
            next.extend(graph.from(node));
        }
    }
    origins
}
