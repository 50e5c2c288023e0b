//! The references within a closure, as a graph of numbered paths.

use std::collections::HashMap;

use nix_derivation::StorePath;

use crate::store::Closure;

/// The references between the paths of a closure. Paths are numbered in their order; missing paths come after the
/// others. A reference of a path to itself is left out.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// For each node, the end of its part of `targets`.
    ends: Vec<u32>,
    /// The references of all nodes, one node after the other.
    targets: Vec<u32>,
}

impl Graph {
    /// The graph of a closure.
    pub(super) fn of(closure: &Closure) -> Self {
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

    /// The number of nodes.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The nodes that `node` refers to.
    pub(super) fn from(&self, node: u32) -> &[u32] {
        let node = node as usize;
        let start = node.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.targets[start as usize..self.ends[node] as usize]
    }

    /// The graph with all references reversed.
    fn reversed(&self) -> Self {
        let mut starts = vec![0; self.len()];
        self.targets.iter().for_each(|target| starts[*target as usize] += 1);
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        // Each start moves to its end while the targets are filled in.
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

/// For each node that refers to one of `origins`, directly or not: the origin from which it was reached.
pub(super) fn referrers(graph: &Graph, origins: Vec<u32>) -> Vec<Option<u32>> {
    let mut reached = vec![None; graph.len()];
    if !origins.is_empty() {
        let referrers = graph.reversed();
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

/// For each node of `work`: the places in `work` of the nodes that must be published before it. These are its
/// references in `work`, and nodes of `work` below its other references: a path that is in the bucket already may refer
/// to a path that is not.
pub(super) fn prerequisites(graph: &Graph, work: &[u32]) -> Vec<Vec<usize>> {
    let mut places = vec![None; graph.len()];
    work.iter().enumerate().for_each(|(place, node)| places[*node as usize] = Some(place));
    let refers_to_work = referrers(graph, work.to_vec());
    let mut seen = vec![u32::MAX; graph.len()];
    let below = |start: &u32| {
        let (mut found, mut next) = (Vec::new(), graph.from(*start).to_vec());
        while let Some(node) = next.pop() {
            if std::mem::replace(&mut seen[node as usize], *start) == *start {
                continue;
            }
            match places[node as usize] {
                Some(place) => found.push(place),
                None if refers_to_work[node as usize].is_some() => next.extend(graph.from(node)),
                None => {}
            }
        }
        found.sort_unstable();
        found
    };
    work.iter().map(below).collect()
}
