//! The execution of a plan: NARs are sent in parallel, narinfos published in order.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use larder_hook::fault;
use nix_derivation::StorePath;

use super::claims::{Claim, Claims};
use super::decide::{Action, Todo};
use super::logs::{Derivers, Logs, Place};
use super::outcome::Outcome;
use super::progress::Progress;
use super::publish::{Order, Publisher, write_listing};
use super::send::{NarSender, RequestLimit, Uploaded};
use super::store_access::StoreAccess;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::format::narinfo::check_size;
use crate::format::path_info::is_small;
use crate::session::Proof;
use crate::survey::NarScan;

/// The number of NARs of each lane that an execution begins. The sender limits how many of them proceed.
const BEGUN: usize = 256;

/// The parts of a pusher that an execution uses.
#[derive(Clone, Copy)]
pub(super) struct Tools<'a> {
    pub(super) store: &'a StoreAccess,
    pub(super) sender: &'a NarSender,
    pub(super) publisher: Publisher<'a>,
    pub(super) requests: &'a RequestLimit,
    pub(super) claims: &'a Claims,
    pub(super) progress: &'a Arc<dyn Progress>,
    pub(super) nars: &'a NarScan,
    /// Whether listings are written.
    pub(super) listings: bool,
    pub(super) logs: &'a Logs,
    pub(super) derivers: &'a Derivers,
}

impl<'a> Tools<'a> {
    fn logs_go(self) -> Place<'a> {
        Place {
            session: self.publisher.session,
            store: &self.store.location,
            requests: self.requests,
            progress: &**self.progress,
        }
    }
}

/// An event that an execution waits for.
enum Event {
    /// The NAR of a path is in the bucket (`Some`), the path needs no NAR (`None`), or the path has an outcome without
    /// a NAR.
    Uploaded(usize, Result<Option<Uploaded>, Outcome>),
    /// The attempt to write an optional object has ended.
    Optional,
    /// The attempt to publish the narinfo of a path has ended.
    Published(usize, Result<Outcome>),
    /// Another push has settled the path.
    SettledElsewhere(usize, Outcome),
}

/// The execution of a plan. Paths are nodes, numbered by their place in the plan.
pub(super) struct Execution<'a> {
    tools: Tools<'a>,
    todo: &'a [Todo],
    order: Order,
    uploaded: Vec<Option<Uploaded>>,
    /// The listings to write once the narinfo stands; `None` if the listing is made then.
    listings: BTreeMap<usize, Option<String>>,
    claims: BTreeMap<usize, Claim>,
    settled: BTreeMap<usize, Outcome>,
    running: FuturesUnordered<BoxFuture<'a, Event>>,
    /// The paths that have not begun, small and large; the next is at the end.
    waiting: [Vec<usize>; 2],
    /// The number of paths of each lane that have begun, and whose NAR is not in the bucket yet.
    begun: [usize; 2],
}

impl<'a> Execution<'a> {
    /// The execution of `todo`. `references` holds, for each path, the paths that must be published before.
    pub(super) fn new(tools: Tools<'a>, todo: &'a [Todo], references: &[Vec<usize>]) -> Self {
        Self {
            tools,
            todo,
            order: Order::new(&in_order(references)),
            uploaded: (0..todo.len()).map(|_| None).collect(),
            listings: BTreeMap::new(),
            claims: BTreeMap::new(),
            settled: BTreeMap::new(),
            running: FuturesUnordered::new(),
            waiting: Default::default(),
            begun: [0; 2],
        }
    }

    /// Works until every path is settled. The result holds the outcome of each.
    pub(super) async fn finish(mut self) -> BTreeMap<usize, Outcome> {
        self.claim_all();
        self.begin();
        while let Some(event) = self.running.next().await {
            self.handle(event);
        }
        self.settled
    }

    /// Claims every path, and puts the paths in the order of their beginning: large NARs first, since the longest work
    /// should not begin last. NARs of about the same size are in random order, so that hosts which push the same paths
    /// seldom send the same NAR at the same time.
    fn claim_all(&mut self) {
        let random = RandomState::new();
        let mut nodes: Vec<_> = (0..self.todo.len()).collect();
        nodes.sort_by_cached_key(|node| {
            let info = &self.todo[*node].info;
            (info.nar_size.checked_ilog2(), random.hash_one(&info.path))
        });
        for node in nodes {
            let todo = &self.todo[node];
            match self.tools.claims.claim(&todo.info.path) {
                Ok(claim) => {
                    self.claims.insert(node, claim);
                    self.waiting[lane(todo)].push(node);
                }
                Err(other) => self
                    .running
                    .push(Box::pin(async move { Event::SettledElsewhere(node, other.outcome().await) })),
            }
        }
    }

    /// Begins to send NARs, [`BEGUN`] of each lane at most. A path that has not begun costs nothing.
    fn begin(&mut self) {
        for lane in 0..self.waiting.len() {
            while self.begun[lane] < BEGUN {
                let Some(node) = self.waiting[lane].pop() else { break };
                self.begun[lane] += 1;
                let (todo, tools) = (&self.todo[node], self.tools);
                self.running.push(Box::pin(async move {
                    Event::Uploaded(
                        node,
                        match todo.action {
                            Action::Sign => Ok(None),
                            Action::Upload => send(tools, todo).await.map(Some),
                        },
                    )
                }));
            }
        }
    }

    /// Does what follows from an event.
    fn handle(&mut self, event: Event) {
        if let Event::Uploaded(node, _) = &event {
            self.begun[lane(&self.todo[*node])] -= 1;
            self.begin();
        }
        match event {
            Event::Uploaded(node, Ok(mut uploaded)) => {
                if let Some(uploaded) = uploaded.as_mut().filter(|_| self.tools.listings) {
                    self.listings.insert(node, uploaded.listing.take());
                }
                self.uploaded[node] = uploaded;
                if self.order.uploaded(node) {
                    self.publish(node);
                }
            }
            Event::Uploaded(node, Err(outcome)) => self.settle(node, outcome),
            Event::Published(node, Err(error)) => self.settle(node, Outcome::Failed(error)),
            Event::Published(node, Ok(outcome)) => {
                if outcome.is_available() {
                    self.begin_listing(node);
                }
                if matches!(outcome, Outcome::Pushed { .. }) {
                    self.begin_log(node);
                }
                self.settle(node, outcome);
            }
            Event::SettledElsewhere(node, outcome) => self.settle(node, outcome),
            Event::Optional => {}
        }
    }

    /// Begins to write the listing of a path whose narinfo is in the bucket: the session may write that path. A listing that
    /// comes first could outlive a path that somebody removes for good.
    fn begin_listing(&mut self, node: usize) {
        let Some(listing) = self.listings.remove(&node) else { return };
        let info = self.todo[node].info.clone();
        let tools = self.tools;
        self.running.push(Box::pin(async move {
            let _slot = tools.requests.slot().await;
            let (bucket, store) = (&**tools.publisher.session.bucket(), tools.store.location.clone());
            write_listing(bucket, store, &info, listing, &**tools.progress).await;
            Event::Optional
        }));
    }

    /// Begins to write the build log of a path whose narinfo is in the bucket.
    fn begin_log(&mut self, node: usize) {
        let (tools, path) = (self.tools, &*self.todo[node].info.path);
        let Some(derivations) = tools.derivers.get(path) else { return };
        self.running.push(Box::pin(async move {
            tools.logs.published(tools.logs_go(), path, derivations).await;
            Event::Optional
        }));
    }

    /// Begins to publish the narinfo of a path, or to sign the narinfo in the bucket.
    fn publish(&mut self, node: usize) {
        let (info, tools) = (&*self.todo[node].info, self.tools);
        let uploaded = self.uploaded[node].take();
        self.running.push(Box::pin(async move {
            let slot = tools.requests.slot().await;
            let published = match uploaded {
                None => tools.publisher.sign(info).await,
                Some(uploaded) => tools.publisher.publish(info, &uploaded).await,
            };
            if published.is_ok() {
                slot.answered();
            }
            Event::Published(node, published)
        }));
    }

    /// Records the outcome of a path, and the consequences for the paths that refer to it.
    fn settle(&mut self, node: usize, outcome: Outcome) {
        // A path that was blocked during the upload of its NAR is settled already.
        if self.settled.contains_key(&node) {
            return;
        }
        let path = self.todo[node].info.path.clone();
        let available = outcome.is_available();
        if available {
            let proof = match outcome {
                Outcome::Differs { .. } => Proof::Foreign,
                _ => Proof::Complete,
            };
            self.tools.publisher.session.facts().record(path.clone(), Moment::now(), proof);
        }
        self.record(node, outcome);
        if available {
            for next in self.order.published(node) {
                self.publish(next);
            }
        } else {
            for blocked in self.order.failed(node) {
                self.record(blocked, Outcome::Blocked { by: path.clone() });
            }
        }
    }

    /// Records the outcome of a path, and tells it to the pushes that wait for the path.
    fn record(&mut self, node: usize, outcome: Outcome) {
        let path: &StorePath = &self.todo[node].info.path;
        self.tools.progress.finished(path, &outcome);
        if let Some(claim) = self.claims.remove(&node) {
            self.tools.claims.settle(path, claim, &outcome);
        }
        self.settled.insert(node, outcome);
    }
}

/// Sends the NAR of a path. The error is the outcome of the path.
async fn send(tools: Tools<'_>, todo: &Todo) -> Result<Uploaded, Outcome> {
    let Publisher { session, examiner } = tools.publisher;
    let judge = examiner.judge;
    let info = &todo.info;
    // A person may have removed the path since the plan was made. Then its NAR must not reach the bucket either.
    let references = info.references.iter().map(|path| path.digest());
    session.check_permitted(info.path.digest(), references).map_err(Outcome::Failed)?;
    check_size(judge.store_dir, info, judge.keys).map_err(Outcome::Failed)?;
    let sent = tools.sender.send(session, tools.requests, &todo.info, tools.nars, tools.progress).await;
    match sent {
        Ok(uploaded) => Ok(uploaded),
        Err(error) => Err(failed(tools.store, &todo.info.path, error).await),
    }
}

/// The outcome of a path whose NAR could not be sent. Only an invalid path counts as gone, and the daemon tells whether
/// the path is valid.
async fn failed(store: &StoreAccess, path: &Arc<StorePath>, error: Error) -> Outcome {
    if error.area() == Area::Store && store.is_gone(path).await {
        return Outcome::Gone;
    }
    Outcome::Failed(error)
}

/// The paths that must be published before each path. A fail point reverses the order, so that a test can show that
/// a wrong order is detected.
fn in_order(references: &[Vec<usize>]) -> Cow<'_, [Vec<usize>]> {
    if !fault::is("reversed-order") {
        return references.into();
    }
    let mut reversed = vec![Vec::new(); references.len()];
    for (node, targets) in references.iter().enumerate() {
        targets.iter().for_each(|target| reversed[*target].push(node));
    }
    reversed.into()
}

/// The lane of a path: 0 for small NARs, 1 for large NARs.
fn lane(todo: &Todo) -> usize {
    usize::from(!is_small(todo.info.nar_size))
}
