//! Compares planning and publication with a model, over random graphs, random contents of the bucket, and random orders
//! of success and failure. The model states the promises, and does not repeat the algorithms.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use nix_derivation::{StoreDir, StorePath};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::decide::{Action, Plan, Request, Root, Rules, judge, patterns, plan};
use super::publish::Order;
use crate::base::error::{Area, Error};
use crate::format::narinfo::fingerprint;
use crate::format::path_info::PathInfo;
use crate::format::signature::SecretKey;
use crate::push::outcome::Outcome;
use crate::store::Closure;
use crate::survey::Presence;

static UPSTREAM: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::generate("upstream-1").expect("a key"));

/// The kind of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Usual,
    Upstream,
    Excluded,
    Parked,
    /// The closure names the path, but the store does not have it.
    Missing,
}

/// The answer of the bucket about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InBucket {
    Absent,
    Complete,
    LacksSignatures,
    Differs,
    Replaceable,
    Unusable,
    Unknown,
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    in_bucket: InBucket,
    /// Nodes with smaller numbers, and perhaps the node itself.
    references: BTreeSet<usize>,
}

/// A closure whose references lead to smaller numbers, and whether this machine built its roots.
#[derive(Clone, Debug)]
struct World {
    nodes: Vec<Node>,
    built_here: bool,
}

fn node(number: usize) -> impl Strategy<Value = Node> {
    let kind = prop_oneof![
        12 => Just(Kind::Usual),
        2 => Just(Kind::Upstream),
        1 => Just(Kind::Excluded),
        1 => Just(Kind::Parked),
        1 => Just(Kind::Missing),
    ];
    let in_bucket = prop_oneof![
        8 => Just(InBucket::Absent),
        4 => Just(InBucket::Complete),
        2 => Just(InBucket::LacksSignatures),
        1 => Just(InBucket::Differs),
        1 => Just(InBucket::Replaceable),
        1 => Just(InBucket::Unusable),
        1 => Just(InBucket::Unknown),
    ];
    let references = prop::collection::btree_set(0..=number, 0..4);
    (kind, in_bucket, references).prop_map(|(kind, in_bucket, mut references)| {
        // The store does not know the references of a missing path.
        if kind == Kind::Missing {
            references.clear();
        }
        Node { kind, in_bucket, references }
    })
}

fn world() -> impl Strategy<Value = World> {
    let nodes = (1..24_usize).prop_flat_map(|count| (0..count).map(node).collect::<Vec<_>>());
    (nodes, prop::bool::weighted(0.9)).prop_map(|(nodes, built_here)| World { nodes, built_here })
}

impl World {
    fn path(&self, number: usize) -> StorePath {
        let name = if self.nodes[number].kind == Kind::Excluded { "excluded" } else { "path" };
        StorePath::from_parts([number as u8; 20], &format!("{name}-{number}")).expect("a store path")
    }

    fn closure(&self) -> Closure {
        let mut closure = Closure::default();
        for (number, node) in self.nodes.iter().enumerate() {
            let path = Arc::new(self.path(number));
            if node.kind == Kind::Missing {
                closure.missing.push(path);
                continue;
            }
            let mut info = PathInfo {
                path: path.clone(),
                deriver: None,
                nar_hash: [number as u8; 32],
                nar_size: 100,
                references: node.references.iter().map(|reference| self.path(*reference)).collect(),
                registration_time: 0,
                ultimate: false,
                signatures: Box::default(),
                ca: None,
            };
            if node.kind == Kind::Upstream {
                let print = fingerprint(&StoreDir::default(), &info);
                info.signatures = [UPSTREAM.sign(&print).unwrap().to_nix_string()].into();
            }
            closure.infos.insert(path, Arc::new(info));
        }
        closure
    }

    fn plan(&self) -> Plan {
        // The roots are the paths without a referrer.
        let referred: BTreeSet<_> = self
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(number, node)| node.references.iter().filter(move |reference| **reference != number))
            .collect();
        let roots = (0..self.nodes.len()).filter(|number| !referred.contains(number));
        let roots = roots.map(|root| Root {
            path: self.path(root).into(),
            built_here: self.built_here,
            derivation: None,
        });
        let parked = (0..self.nodes.len()).filter(|number| self.nodes[*number].kind == Kind::Parked);
        let request = Request {
            roots: roots.collect(),
            parked: parked.map(|number| self.path(number)).collect(),
            ..Request::default()
        };
        let rules = Rules {
            upstream_keys: vec![UPSTREAM.public()],
            push_upstream: false,
            trusted_keys: Vec::new(),
            trust_unsigned: false,
            closure_trust: true,
            exclude: patterns(&["excluded-*".into()]).expect("a pattern"),
            max_nar_size: None,
        };
        let closure = self.closure();
        let verdicts = judge(&StoreDir::default(), &request, &closure, &rules);
        let asked: Vec<_> = verdicts.asked(&closure).map(|info| info.path.clone()).collect();
        let presence: HashMap<_, _> = asked
            .into_iter()
            .map(|path| {
                let presence = match self.nodes[usize::from(path.digest()[0])].in_bucket {
                    InBucket::Absent => Presence::Absent,
                    InBucket::Complete => Presence::Complete,
                    InBucket::LacksSignatures => Presence::LacksSignatures { accepted: false },
                    InBucket::Differs => Presence::Differs { signer: "other-1".into() },
                    InBucket::Replaceable => Presence::Replaceable,
                    InBucket::Unusable => Presence::Unusable("unusable".into()),
                    InBucket::Unknown => Presence::Unknown(Error::transient(Area::Bucket, "no answer")),
                };
                (path, presence)
            })
            .collect();
        plan(&request, closure, verdicts, presence)
    }

    /// The closure of a node.
    fn closure_of(&self, number: usize) -> BTreeSet<usize> {
        let (mut found, mut next) = (BTreeSet::new(), vec![number]);
        while let Some(number) = next.pop() {
            if found.insert(number) && self.nodes[number].kind != Kind::Missing {
                next.extend(&self.nodes[number].references);
            }
        }
        found
    }
}

fn number(path: &StorePath) -> usize {
    usize::from(path.digest()[0])
}

/// The places of all work that must be done before the work at `place`, directly or not.
fn before(references: &[Vec<usize>], place: usize) -> BTreeSet<usize> {
    let (mut found, mut next) = (BTreeSet::new(), references[place].clone());
    while let Some(place) = next.pop() {
        if found.insert(place) {
            next.extend(&references[place]);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_plan_keeps_every_closure_complete_and_blocks_no_path_without_reason(world in world()) {
        let mut plan = world.plan();
        let work: HashMap<usize, usize> =
            plan.todo.iter().enumerate().map(|(place, todo)| (number(&todo.info.path), place)).collect();
        let mut fates: HashMap<usize, &Outcome> =
            plan.settled.outcomes.iter().map(|(path, outcome)| (number(path), outcome)).collect();
        let above: Vec<_> = std::mem::take(&mut plan.above_work).outcomes().collect();
        fates.extend(above.iter().map(|(path, outcome)| (number(path), outcome)));
        for top in 0..world.nodes.len() {
            prop_assert!(work.contains_key(&top) != fates.contains_key(&top), "{top} has one fate");
            let below = world.closure_of(top);
            if let Some(place) = work.get(&top) {
                // A client never sees an incomplete closure: each path of it is available, or is published before.
                let earlier = before(&plan.references, *place);
                prop_assert!(!earlier.contains(place));
                for other in below.iter().filter(|other| **other != top) {
                    let available = fates.get(other).is_some_and(|outcome| outcome.is_available());
                    let published = work.get(other).is_some_and(|other| earlier.contains(other));
                    prop_assert!(available != published, "{other} below {top}");
                }
                let in_bucket = world.nodes[top].in_bucket;
                prop_assert_eq!(plan.todo[*place].action == Action::Sign, in_bucket == InBucket::LacksSignatures);
                prop_assert!(matches!(
                    in_bucket,
                    InBucket::Absent | InBucket::LacksSignatures | InBucket::Replaceable
                ));
            }
            // A path in the bucket is available only if its whole closure is, now or after the work below it.
            if let Some(Outcome::Present | Outcome::Differs { .. }) = fates.get(&top) {
                let waits = above.iter().any(|(path, _)| number(path) == top);
                prop_assert_eq!(waits, below.iter().any(|other| work.contains_key(other)));
                for other in below.iter().filter(|other| **other != top) {
                    let available = fates.get(other).is_some_and(|outcome| outcome.is_available());
                    let published = work.contains_key(other);
                    prop_assert!(available != published, "{other} below {top}, which is in the bucket");
                }
            }
            // A path is held back only for a reason in its closure.
            let unhindered = below.iter().all(|other| {
                let node = &world.nodes[*other];
                matches!(node.kind, Kind::Usual | Kind::Upstream)
                    && (!matches!(node.in_bucket, InBucket::Unknown | InBucket::Unusable)
                        || node.kind == Kind::Upstream)
            });
            if unhindered && world.built_here {
                let available = fates.get(&top).is_some_and(|outcome| outcome.is_available());
                prop_assert!(work.contains_key(&top) || available, "{top}: {:?}", fates.get(&top));
            }
            // The outcome of a blocked path names a path of its closure that is not available.
            if let Some(Outcome::Blocked { by }) = fates.get(&top) {
                let by = number(by);
                prop_assert!(below.contains(&by));
                let parked = by == top && world.nodes[top].kind == Kind::Parked;
                prop_assert!(parked || fates.get(&by).is_some_and(|fate| !fate.is_available()));
            }
        }
    }
}

/// The model: the events of a push so far.
#[derive(Clone, Debug)]
struct Progress {
    references: Vec<Vec<usize>>,
    uploaded: BTreeSet<usize>,
    published: BTreeSet<usize>,
    failed: BTreeSet<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Uploaded(usize),
    UploadFailed(usize),
    Published(usize),
    PublishFailed(usize),
}

impl Progress {
    fn is_blocked(&self, node: usize) -> bool {
        before(&self.references, node).iter().any(|other| self.failed.contains(other))
    }

    /// Whether the node may be published: its NAR is uploaded, and all its references are published.
    fn is_ready(&self, node: usize) -> bool {
        let settled = self.published.contains(&node) || self.failed.contains(&node);
        !settled
            && self.uploaded.contains(&node)
            && self.references[node].iter().all(|reference| self.published.contains(reference))
    }

    fn ready(&self) -> BTreeSet<usize> {
        (0..self.references.len()).filter(|node| self.is_ready(*node)).collect()
    }

    /// The events that can come next. The upload of a blocked node also ends.
    fn possible(&self) -> Vec<Event> {
        let uploading = |node: &usize| !self.uploaded.contains(node) && !self.failed.contains(node);
        let uploads = (0..self.references.len()).filter(uploading);
        let mut events: Vec<_> =
            uploads.flat_map(|node| [Event::Uploaded(node), Event::UploadFailed(node)]).collect();
        events.extend(
            self.ready().iter().flat_map(|node| [Event::Published(*node), Event::PublishFailed(*node)]),
        );
        events
    }
}

impl ReferenceStateMachine for Progress {
    type State = Self;
    type Transition = Event;

    fn init_state() -> BoxedStrategy<Self> {
        world()
            .prop_map(|world| Self {
                references: world.plan().references,
                uploaded: BTreeSet::new(),
                published: BTreeSet::new(),
                failed: BTreeSet::new(),
            })
            .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Event> {
        let possible = state.possible();
        // At the end, an event without effect is repeated.
        if possible.is_empty() {
            return Just(Event::Uploaded(usize::MAX)).boxed();
        }
        // Successes are more frequent.
        let weighted = |event: &Event| match event {
            Event::Uploaded(_) | Event::Published(_) => 5,
            Event::UploadFailed(_) | Event::PublishFailed(_) => 1,
        };
        let choices = possible.into_iter().map(|event| (weighted(&event), Just(event).boxed()));
        proptest::strategy::Union::new_weighted(choices.collect()).boxed()
    }

    fn apply(mut state: Self, event: &Event) -> Self {
        match *event {
            Event::Uploaded(usize::MAX) => {}
            Event::Uploaded(node) => drop(state.uploaded.insert(node)),
            Event::Published(node) => drop(state.published.insert(node)),
            Event::UploadFailed(node) | Event::PublishFailed(node) => drop(state.failed.insert(node)),
        }
        state
    }

    fn preconditions(state: &Self, event: &Event) -> bool {
        let possible = state.possible();
        let same = |other: &Event| match (other, event) {
            (Event::Uploaded(a), Event::Uploaded(b))
            | (Event::UploadFailed(a), Event::UploadFailed(b))
            | (Event::Published(a), Event::Published(b))
            | (Event::PublishFailed(a), Event::PublishFailed(b)) => a == b,
            _ => false,
        };
        matches!(event, Event::Uploaded(usize::MAX)) && possible.is_empty() || possible.iter().any(same)
    }
}

/// The order of publication, with the nodes that it has released and blocked.
struct Publication {
    order: Order,
    released: BTreeSet<usize>,
    blocked: BTreeSet<usize>,
}

impl StateMachineTest for Publication {
    type SystemUnderTest = Self;
    type Reference = Progress;

    fn init_test(progress: &Progress) -> Self {
        Self { order: Order::new(&progress.references), released: BTreeSet::new(), blocked: BTreeSet::new() }
    }

    fn apply(mut test: Self, progress: &Progress, event: Event) -> Self {
        match event {
            Event::Uploaded(usize::MAX) => {}
            Event::Uploaded(node) => {
                if test.order.uploaded(node) {
                    assert!(test.released.insert(node), "{node} is released twice");
                }
            }
            Event::Published(node) => {
                for next in test.order.published(node) {
                    assert!(test.released.insert(next), "{next} is released twice");
                }
            }
            Event::UploadFailed(node) | Event::PublishFailed(node) => {
                // A node that was blocked before it failed is settled already.
                if !test.blocked.contains(&node) {
                    for blocked in test.order.failed(node) {
                        assert!(test.blocked.insert(blocked), "{blocked} is blocked twice");
                    }
                }
            }
        }
        let ended = |node: &usize| progress.published.contains(node) || progress.failed.contains(node);
        let running: BTreeSet<_> = test.released.iter().copied().filter(|node| !ended(node)).collect();
        assert_eq!(running, progress.ready(), "the released nodes are the nodes that may be published");
        for node in 0..progress.references.len() {
            let expected = progress.is_blocked(node) && !progress.failed.contains(&node);
            assert_eq!(test.blocked.contains(&node) && !progress.failed.contains(&node), expected, "{node}");
        }
        test
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn publication_follows_the_model(sequential 1..80 => Publication);
}
