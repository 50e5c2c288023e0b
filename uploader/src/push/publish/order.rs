//! The order of publication, as a state machine without I/O. A narinfo may be published when its NAR is in the bucket
//! and the narinfos of all its references are published.

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The node waits.
    Waiting {
        /// Whether its NAR is not in the bucket yet.
        nar: bool,
        /// The number of references that are not published yet.
        references: usize,
    },
    /// The caller may publish the node.
    Ready,
    /// The node is published.
    Done,
    /// The node cannot be published.
    Failed,
}

/// The order in which the paths of a push are published. Each path is a node; nodes are numbered from 0.
#[derive(Clone, Debug)]
pub struct Order {
    states: Vec<State>,
    /// For each node, the nodes that refer to it.
    dependents: Vec<Vec<usize>>,
}

impl Order {
    /// An order in which no node is published. `references[i]` holds the nodes that must be published before node `i`.
    /// The graph must have no cycle, and no node that refers to itself.
    pub fn new(references: &[Vec<usize>]) -> Self {
        let mut dependents = vec![Vec::new(); references.len()];
        for (node, targets) in references.iter().enumerate() {
            for target in targets {
                dependents[*target].push(node);
            }
        }
        let states = references
            .iter()
            .map(|targets| State::Waiting { nar: true, references: targets.len() })
            .collect();
        Self { states, dependents }
    }

    /// Records that the NAR of `node` is in the bucket. The result says whether the node may be published now.
    #[must_use]
    pub fn uploaded(&mut self, node: usize) -> bool {
        if let State::Waiting { nar, .. } = &mut self.states[node] {
            *nar = false;
        }
        self.release(node)
    }

    /// Records that the narinfo of `node` is in the bucket. The result holds the nodes that may be published now.
    #[must_use]
    pub fn published(&mut self, node: usize) -> Vec<usize> {
        self.states[node] = State::Done;
        let dependents = self.dependents[node].clone();
        dependents
            .into_iter()
            .filter(|dependent| {
                if let State::Waiting { references, .. } = &mut self.states[*dependent] {
                    *references -= 1;
                }
                self.release(*dependent)
            })
            .collect()
    }

    /// Records that `node` cannot be published. The result holds each waiting node that refers to it, directly or not:
    /// these nodes cannot be published either.
    #[must_use]
    pub fn failed(&mut self, node: usize) -> Vec<usize> {
        self.states[node] = State::Failed;
        let (mut blocked, mut next) = (Vec::new(), vec![node]);
        while let Some(node) = next.pop() {
            for dependent in self.dependents[node].clone() {
                if matches!(self.states[dependent], State::Waiting { .. }) {
                    self.states[dependent] = State::Failed;
                    blocked.push(dependent);
                    next.push(dependent);
                }
            }
        }
        blocked
    }

    /// Marks a waiting node as ready when nothing is left to wait for.
    fn release(&mut self, node: usize) -> bool {
        let ready = self.states[node] == State::Waiting { nar: false, references: 0 };
        if ready {
            self.states[node] = State::Ready;
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_released_after_its_references() {
        // 0 ← 1 ← 2, 0 ← 2
        let mut order = Order::new(&[vec![], vec![0], vec![0, 1]]);
        assert!(!order.uploaded(2));
        assert!(!order.uploaded(1));
        assert!(order.uploaded(0));
        assert_eq!(order.published(0), [1]);
        assert_eq!(order.published(1), [2]);
        assert!(order.published(2).is_empty());
    }

    #[test]
    fn a_failure_blocks_its_referrers_and_no_other_node() {
        // 0 ← 1 ← 2, 3 alone, 4 refers to 3 and 1
        let mut order = Order::new(&[vec![], vec![0], vec![1], vec![], vec![3, 1]]);
        let mut blocked = order.failed(0);
        blocked.sort_unstable();
        assert_eq!(blocked, [1, 2, 4]);
        assert!(order.uploaded(3));
        assert!(order.published(3).is_empty(), "4 is blocked");
        assert!(!order.uploaded(2), "a blocked node is never released");
    }

    #[test]
    fn in_any_order_of_uploads_each_node_is_released_once_and_after_its_references() {
        let references: Vec<Vec<usize>> =
            (0..40).map(|i: usize| (0..i).filter(|j| (i * 7 + j * 3).is_multiple_of(5)).collect()).collect();
        for seed in 0..50_usize {
            let mut uploads: Vec<_> = (0..40).collect();
            uploads.sort_by_key(|i| (i * 31 + seed * 17) % 41);
            let mut order = Order::new(&references);
            let mut published = Vec::new();
            for node in uploads {
                let mut ready: Vec<_> = order.uploaded(node).then_some(node).into_iter().collect();
                while let Some(node) = ready.pop() {
                    assert!(references[node].iter().all(|reference| published.contains(reference)), "{node}");
                    assert!(!published.contains(&node));
                    published.push(node);
                    ready.extend(order.published(node));
                }
            }
            assert_eq!(published.len(), 40);
        }
    }
}
