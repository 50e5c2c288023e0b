//! Planning and publication against a model: random graphs, random states of the bucket, random order of what comes to
//! an end and what fails. The model says what must hold in the words of the promise, not how it is computed.

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

/// What is special about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Usual,
    Upstream,
    Excluded,
    Parked,
    /// In the closure by name only: the store does not have it.
    Missing,
}

/// What the bucket says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    Absent,
    Complete,
    LacksSignatures,
    Differs,
    Unknown,
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    there: There,
    /// Smaller numbers, and perhaps its own.
    references: BTreeSet<usize>,
}

/// A closure, numbered so that references have smaller numbers, and whether its top was built here.
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
    let there = prop_oneof![
        8 => Just(There::Absent),
        4 => Just(There::Complete),
        2 => Just(There::LacksSignatures),
        1 => Just(There::Differs),
        1 => Just(There::Unknown),
    ];
    (kind, there, prop::collection::btree_set(0..=number, 0..4)).prop_map(|(kind, there, mut references)| {
        // Of what it does not have the store knows nothing.
        if kind == Kind::Missing {
            references.clear();
        }
        Node { kind, there, references }
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
                info.signatures = [UPSTREAM.sign(&print).to_nix_string()].into();
            }
            closure.infos.insert(path, Arc::new(info));
        }
        closure
    }

    fn plan(&self) -> Plan {
        // What nothing refers to was asked for.
        let referred: BTreeSet<_> = self
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(number, node)| node.references.iter().filter(move |reference| **reference != number))
            .collect();
        let tops = (0..self.nodes.len()).filter(|number| !referred.contains(number));
        let roots = tops.map(|top| Root { path: self.path(top).into(), built_here: self.built_here });
        let parked = (0..self.nodes.len()).filter(|number| self.nodes[*number].kind == Kind::Parked);
        let request = Request {
            roots: roots.collect(),
            parked: parked.map(|number| self.path(number)).collect(),
            ..Request::default()
        };
        let policy = Rules {
            upstream_keys: vec![UPSTREAM.public()],
            push_upstream: false,
            trusted_keys: Vec::new(),
            trust_unsigned: false,
            exclude: patterns(&["excluded-*".into()]).expect("a pattern"),
            max_nar_size: None,
        };
        let closure = self.closure();
        let verdicts = judge(&StoreDir::default(), &request, &closure, &policy);
        let asked: Vec<_> = verdicts.asked(&closure).map(|info| info.path.clone()).collect();
        let presence: HashMap<_, _> = asked
            .into_iter()
            .map(|path| {
                let presence = match self.nodes[usize::from(path.digest()[0])].there {
                    There::Absent => Presence::Absent,
                    There::Complete => Presence::Complete,
                    There::LacksSignatures => Presence::LacksSignatures,
                    There::Differs => Presence::Differs,
                    There::Unknown => Presence::Unknown(Error::transient(Area::Bucket, "no answer")),
                };
                (path, presence)
            })
            .collect();
        plan(&request, closure, verdicts, presence)
    }

    /// The node and everything below it.
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

/// For each piece of work: everything that has to come before it, also by way of others.
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
    fn a_plan_keeps_the_promises(world in world()) {
        let plan = world.plan();
        let work: HashMap<usize, usize> =
            plan.todo.iter().enumerate().map(|(place, todo)| (number(&todo.info.path), place)).collect();
        let fates: HashMap<usize, &Outcome> =
            plan.settled.outcomes.iter().map(|(path, outcome)| (number(path), outcome)).collect();
        for top in 0..world.nodes.len() {
            prop_assert!(work.contains_key(&top) != fates.contains_key(&top), "{top} has one fate");
            let below = world.closure_of(top);
            if let Some(place) = work.get(&top) {
                // A reader never sees a broken closure: all below is available, or is published before.
                let earlier = before(&plan.references, *place);
                prop_assert!(!earlier.contains(place));
                for other in below.iter().filter(|other| **other != top) {
                    let available = fates.get(other).is_some_and(|outcome| outcome.is_available());
                    let published = work.get(other).is_some_and(|other| earlier.contains(other));
                    prop_assert!(available != published, "{other} below {top}");
                }
                let there = world.nodes[top].there;
                prop_assert_eq!(plan.todo[*place].action == Action::Sign, there == There::LacksSignatures);
                prop_assert!(matches!(there, There::Absent | There::LacksSignatures));
            }
            // Nobody is held up who has no reason for it.
            let innocent = below.iter().all(|other| {
                let node = &world.nodes[*other];
                matches!(node.kind, Kind::Usual | Kind::Upstream)
                    && (node.there != There::Unknown || node.kind == Kind::Upstream)
            });
            if innocent && world.built_here {
                let available = fates.get(&top).is_some_and(|outcome| outcome.is_available());
                prop_assert!(work.contains_key(&top) || available, "{top}: {:?}", fates.get(&top));
            }
            // Whoever is blocked is told by whom.
            if let Some(Outcome::Blocked { by }) = fates.get(&top) {
                let by = number(by);
                prop_assert!(below.contains(&by));
                let parked = by == top && world.nodes[top].kind == Kind::Parked;
                prop_assert!(parked || fates.get(&by).is_some_and(|fate| !fate.is_available()));
            }
        }
    }
}

/// What has happened in a push so far.
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

    /// Whether it may be published: the promise, word for word.
    fn is_ready(&self, node: usize) -> bool {
        let settled = self.published.contains(&node) || self.failed.contains(&node);
        !settled
            && self.uploaded.contains(&node)
            && self.references[node].iter().all(|reference| self.published.contains(reference))
    }

    fn ready(&self) -> BTreeSet<usize> {
        (0..self.references.len()).filter(|node| self.is_ready(*node)).collect()
    }

    /// What can happen next. Uploads of what is blocked come to an end, too.
    fn possible(&self) -> Vec<Event> {
        let on_the_way = |node: &usize| !self.uploaded.contains(node) && !self.failed.contains(node);
        let uploads = (0..self.references.len()).filter(on_the_way);
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
        // An end to which nothing more happens; what is repeated changes nothing.
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

/// The order of publication, and what it has released.
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
                // What was blocked before it failed itself is settled already.
                if !test.blocked.contains(&node) {
                    for blocked in test.order.failed(node) {
                        assert!(test.blocked.insert(blocked), "{blocked} is blocked twice");
                    }
                }
            }
        }
        let ended = |node: &usize| progress.published.contains(node) || progress.failed.contains(node);
        let running: BTreeSet<_> = test.released.iter().copied().filter(|node| !ended(node)).collect();
        assert_eq!(running, progress.ready(), "what is released is what may be published");
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
