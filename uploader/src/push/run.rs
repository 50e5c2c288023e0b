//! One push being carried out: NARs are sent in parallel, narinfos published in order.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use larder_hook::fault;
use nix_derivation::StorePath;
use tokio::sync::watch;

use super::outcome::Outcome;
use super::progress::Progress;
use super::pusher::Pusher;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result, Retry};
use crate::base::lock::lock;
use crate::bucket::{Condition, ContentType};
use crate::format::listing::ListingWriter;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::push::decide::plan::{Action, Todo};
use crate::push::publish::order::Order;
use crate::push::send::nar::is_small;
use crate::push::send::upload::Uploaded;
use crate::store::{Daemon, dump};
use crate::survey::presence::Nars;

/// How many NARs of each lane a push begins; more than the lane takes at once.
const BEGUN: usize = 256;
/// Something that a push was waiting for.
enum Step {
    /// The NAR of a path is in the bucket, or none is needed, or it cannot be.
    Uploaded(usize, Result<Option<Uploaded>, Outcome>),
    /// An extra object was written, or not.
    Extra,
    Published(usize, Result<Outcome>),
    /// Another push settled it.
    Elsewhere(usize, Outcome),
}

/// One push in progress.
pub(crate) struct Run<'a> {
    pusher: &'a Pusher,
    order: Order,
    uploaded: Vec<Option<Uploaded>>,
    senders: BTreeMap<usize, watch::Sender<Option<Outcome>>>,
    settled: BTreeMap<usize, Outcome>,
    running: FuturesUnordered<BoxFuture<'a, Step>>,
    /// What has not been begun yet, small and large, the next at the end.
    waiting: [Vec<usize>; 2],
    /// How many of each have been begun and have not got their NAR into the bucket yet.
    begun: [usize; 2],
    nars: &'a Nars,
    todo: &'a [Todo],
    progress: &'a Arc<dyn Progress>,
}

impl<'a> Run<'a> {
    /// For what there is to do, with what each of it has to come after.
    pub(crate) fn new(
        pusher: &'a Pusher,
        todo: &'a [Todo],
        references: &[Vec<usize>],
        nars: &'a Nars,
        progress: &'a Arc<dyn Progress>,
    ) -> Self {
        Self {
            pusher,
            order: Order::new(&in_order(references)),
            uploaded: (0..todo.len()).map(|_| None).collect(),
            senders: BTreeMap::new(),
            settled: BTreeMap::new(),
            running: FuturesUnordered::new(),
            waiting: Default::default(),
            begun: [0; 2],
            nars,
            todo,
            progress,
        }
    }

    /// Works until everything is settled, and tells how.
    pub(crate) async fn finish(mut self) -> BTreeMap<usize, Outcome> {
        self.start();
        while let Some(step) = self.running.next().await {
            self.step(step);
        }
        self.settled
    }

    /// Claims everything and sets the first of it going. Largest first, since what takes longest should not be begun
    /// last; among those of about the same size in any order, so that hosts which push the same do not do the same.
    fn start(&mut self) {
        let chance = RandomState::new();
        let mut nodes: Vec<_> = (0..self.todo.len()).collect();
        nodes.sort_by_cached_key(|node| {
            let info = &self.todo[*node].info;
            (info.nar_size.checked_ilog2(), chance.hash_one(&info.path))
        });
        for node in nodes {
            let todo = &self.todo[node];
            match self.pusher.claim(&todo.info.path) {
                Ok(sender) => {
                    self.senders.insert(node, sender);
                    self.waiting[lane(todo)].push(node);
                }
                Err(mut claim) => self.running.push(Box::pin(async move {
                    let outcome =
                        claim.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
                    Step::Elsewhere(node, outcome.unwrap_or_else(|| Outcome::Failed(interrupted())))
                })),
            }
        }
        self.begin();
    }

    /// Begins as many as the lanes can take, and a few that wait there. The rest cost nothing yet.
    fn begin(&mut self) {
        for lane in 0..self.waiting.len() {
            while self.begun[lane] < BEGUN {
                let Some(node) = self.waiting[lane].pop() else { break };
                self.begun[lane] += 1;
                let (todo, pusher, nars, progress) =
                    (&self.todo[node], self.pusher, self.nars, self.progress);
                self.running.push(Box::pin(async move {
                    Step::Uploaded(
                        node,
                        match todo.action {
                            Action::Sign => Ok(None),
                            Action::Upload => match pusher.nar(todo, nars, progress).await {
                                Ok(uploaded) => Ok(Some(uploaded)),
                                Err(error) => Err(pusher.failed(&todo.info.path, error).await),
                            },
                        },
                    )
                }));
            }
        }
    }

    fn step(&mut self, step: Step) {
        if let Step::Uploaded(node, _) = &step {
            self.begun[lane(&self.todo[*node])] -= 1;
            self.begin();
        }
        match step {
            Step::Uploaded(node, Ok(mut uploaded)) => {
                self.list(node, &mut uploaded);
                self.uploaded[node] = uploaded;
                if self.order.uploaded(node) {
                    self.publish(node);
                }
            }
            Step::Uploaded(node, Err(outcome)) => self.settle(node, outcome),
            Step::Published(node, Err(error)) => self.settle(node, Outcome::Failed(error)),
            Step::Published(node, Ok(outcome)) | Step::Elsewhere(node, outcome) => self.settle(node, outcome),
            Step::Extra => {}
        }
    }

    /// Sets the writing of a listing going.
    fn list(&mut self, node: usize, uploaded: &mut Option<Uploaded>) {
        let Some(uploaded) = uploaded.as_mut().filter(|_| self.pusher.uploader.listing) else { return };
        let (info, listing) = (self.todo[node].info.clone(), uploaded.listing.take());
        let (pusher, progress) = (self.pusher, self.progress);
        self.running.push(Box::pin(async move {
            pusher.write_listing(info, listing, progress).await;
            Step::Extra
        }));
    }

    fn publish(&mut self, node: usize) {
        let (todo, pusher) = (&self.todo[node], self.pusher);
        let uploaded = self.uploaded[node].take();
        self.running.push(Box::pin(async move {
            let request = pusher.flow.turn().await;
            let published = match uploaded {
                None => pusher.sign(&todo.info).await,
                Some(uploaded) => pusher.publish(&todo.info, &uploaded).await,
            };
            if published.is_ok() {
                request.answered();
            }
            Step::Published(node, published)
        }));
    }

    /// Records what became of a node, and what follows for those that refer to it.
    fn settle(&mut self, node: usize, outcome: Outcome) {
        // A node that was blocked while its NAR was on its way is settled already.
        if self.settled.contains_key(&node) {
            return;
        }
        let path = self.todo[node].info.path.clone();
        let available = outcome.is_available();
        if available && !matches!(outcome, Outcome::Differs) {
            self.pusher.facts().insert(path.clone(), Moment::now());
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

    fn record(&mut self, node: usize, outcome: Outcome) {
        let path = &self.todo[node].info.path;
        self.progress.finished(path, &outcome);
        if let Some(sender) = self.senders.remove(&node) {
            lock(&self.pusher.claims).remove(path);
            sender.send_replace(Some(outcome.clone()));
        }
        self.settled.insert(node, outcome);
    }
}

impl Pusher {
    /// Writes the listing of a path, made on the way or, where the NAR needed not be sent, by reading the path. It is
    /// an extra that nothing waits for, and a failure is nobody's loss.
    async fn write_listing(
        &self,
        info: Arc<PathInfo>,
        listing: Option<String>,
        progress: &Arc<dyn Progress>,
    ) {
        let _turn = self.flow.turn().await;
        let (store, path) = (self.store.clone(), info.path.clone());
        let list = move || {
            let mut listing = ListingWriter::new();
            dump(&store, &path, &mut listing).ok()?;
            listing.finish().ok()
        };
        let listing = match listing {
            Some(listing) => Some(listing),
            None => tokio::task::spawn_blocking(list).await.ok().flatten(),
        };
        let Some(listing) = listing else { return };
        let key = object_keys::listing(&info.path);
        if let Err(error) = self.bucket.put(&key, listing.into(), ContentType::Json, Condition::None).await {
            progress.remark(&format!("no listing of `{}`: {error}", info.path.to_basename()));
        }
    }

    /// What became of a path whose NAR could not be sent: whether it is gone, the store tells, not its files.
    async fn failed(&self, path: &Arc<StorePath>, error: Error) -> Outcome {
        if error.area() != Area::Store {
            return Outcome::Failed(error);
        }
        let (store, asked) = (self.store.clone(), path.clone());
        let ask = move || Daemon::connect(&store)?.valid_paths(&[asked]);
        match tokio::task::spawn_blocking(ask).await {
            Ok(Ok(valid)) if !valid.contains(path) => Outcome::Gone,
            _ => Outcome::Failed(error),
        }
    }

    /// Claims a path for a push; `Err` hands out what to wait for when another push has it.
    fn claim(
        &self,
        path: &Arc<StorePath>,
    ) -> Result<watch::Sender<Option<Outcome>>, watch::Receiver<Option<Outcome>>> {
        let mut claims = lock(&self.claims);
        if let Some(claim) = claims.get(path).filter(|claim| claim.has_changed().is_ok()) {
            return Err(claim.clone());
        }
        let (sender, receiver) = watch::channel(None);
        claims.insert(path.clone(), receiver);
        Ok(sender)
    }
}

/// What each node has to come after. A build with fail points can be told to do it the other way round, so that tests
/// see what finds that out.
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

/// Which of a run's lanes a node is in.
fn lane(todo: &Todo) -> usize {
    usize::from(!is_small(&todo.info))
}

fn interrupted() -> Error {
    Error::new(Area::General, Retry::Transient, "another push of the same path was interrupted")
}
