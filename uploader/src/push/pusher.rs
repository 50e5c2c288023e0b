//! Carries out pushes: asks, plans, uploads in parallel, publishes in order.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use larder_hook::fault;
use nix_derivation::StorePath;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::budget::Budget;
use super::clock::Moment;
use super::compress::Settings;
use super::flow::Flow;
use super::order::Order;
use super::outcome::{Outcome, Report};
use super::pace::Pace;
use super::plan::{self, Action, Plan, Request, Todo, Verdicts};
use super::policy::Policy;
use super::presence::{Narinfos, Nars};
use super::produce::PART;
use super::progress::Progress;
use super::publish::FACT_AGE;
use super::session::{GOODBYE, Session};
use super::upload::{Uploaded, Uploader};
use crate::bucket::{Bucket, Condition, ContentType};
use crate::cache::keys;
use crate::cache::listing::ListingWriter;
use crate::cache::signing::SecretKey;
use crate::error::{Area, Error, Result, Retry};
use crate::store::{Closure, Daemon, PathInfo, StoreLocation, closure, dump};

/// How a pusher works.
#[derive(Clone, Debug)]
pub struct Options {
    /// How NARs are compressed.
    pub compression: Settings,
    /// How many large NARs are worked on at the same time.
    pub jobs: usize,
    /// Whether listings are written.
    pub listings: bool,
    /// What is pushed and signed.
    pub policy: Policy,
}

/// Below this size of a NAR, latency costs more than bytes: many are on their way at the same time.
const SMALL: u64 = 1 << 20;
/// How many of them are read at the same time; each takes a thread, and a disk is waited for.
const READERS: usize = 16;
/// Each large one that is read takes a thread, and the runtime has 512, which others need, too.
const MOST_LARGE: usize = 64;
/// How many NARs of each lane a push begins; more than the lane takes at once.
const BEGUN: usize = 256;
/// Memory for compressed parts that are being sent, over all uploads; beside them, one for each job is being filled.
/// This is what a gigabit carries in a quarter of a second, so that requests may take as long as that.
const SENDING: u64 = 32 << 20;

/// Pushes paths into a bucket. One serves any number of pushes, also at the same time.
#[derive(Debug)]
pub struct Pusher {
    pub(super) bucket: Arc<dyn Bucket>,
    pub(super) store: Arc<StoreLocation>,
    pub(super) keys: Vec<SecretKey>,
    pub(super) session: Session,
    policy: Arc<Policy>,
    /// A connection that is open already; what it keeps in the store is kept for as long as this.
    daemon: Arc<Mutex<Option<Daemon>>>,
    uploader: Uploader,
    lanes: Lanes,
    /// Turns for small NARs, from the first byte read to the answer of their PUT, and for all other small requests.
    flow: Flow,
    /// When each path was last seen, or put, in the bucket.
    facts: Mutex<HashMap<Arc<StorePath>, Moment>>,
    /// Paths that a running push works on, so that another waits for it instead of doing the same.
    claims: Mutex<HashMap<Arc<StorePath>, watch::Receiver<Option<Outcome>>>>,
    /// NARs of this session with the time of their upload, so that equal contents are sent once.
    nars: Mutex<HashMap<[u8; 32], Remembered>>,
    /// Removes what dead writers have left.
    pub(super) tidying: Mutex<Option<JoinHandle<()>>>,
}

/// What limits how many NARs are worked on at the same time.
#[derive(Debug)]
struct Lanes {
    /// Large ones that are next.
    large: Semaphore,
    /// Large ones that are being compressed.
    turns: Arc<Semaphore>,
    /// Small ones that are being read.
    readers: Arc<Semaphore>,
}

impl Lanes {
    fn new(jobs: usize) -> Self {
        Self {
            large: Semaphore::new(jobs),
            turns: Arc::new(Semaphore::new(jobs)),
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }
}

/// A NAR that is being sent or was, and since when.
type Remembered = (Moment, Arc<OnceCell<Uploaded>>);

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

impl Pusher {
    /// Opens a session with the bucket.
    pub async fn open(
        bucket: Arc<dyn Bucket>,
        store: Arc<StoreLocation>,
        keys: Vec<SecretKey>,
        options: Options,
    ) -> Result<Self> {
        let session = Session::open(bucket.clone(), store.store_dir.as_str()).await?;
        let mut policy = options.policy;
        policy.trusted_keys.extend(keys.iter().map(SecretKey::public));
        let jobs = options.jobs.clamp(1, MOST_LARGE);
        let lanes = Lanes::new(jobs);
        let budget = Budget::new(PART * jobs as u64, SENDING);
        let uploader = Uploader {
            bucket: bucket.clone(),
            writer: session.id().to_owned(),
            store: store.clone(),
            pace: Arc::new(Pace::new(options.compression, lanes.turns.clone(), jobs, budget.clone())),
            contexts: Arc::default(),
            budget,
            listing: options.listings,
        };
        Ok(Self {
            bucket,
            store,
            keys,
            session,
            policy: Arc::new(policy),
            daemon: Arc::default(),
            uploader,
            lanes,
            flow: Flow::new(),
            facts: Mutex::default(),
            claims: Mutex::default(),
            nars: Mutex::default(),
            tidying: Mutex::default(),
        })
    }

    /// Takes over a connection to the daemon, to ask it about closures. Its temporary roots stay until the session ends.
    pub fn lend(&self, daemon: Daemon) {
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = Some(daemon);
    }

    /// What tells this session from all others.
    pub fn id(&self) -> &str {
        self.session.id()
    }

    /// Whether the session goes on; a pusher whose session is over is of no more use.
    pub fn check(&self) -> Result<()> {
        self.session.check()
    }

    /// Whether the bucket can be written to at all.
    pub async fn probe(&self) -> Result<()> {
        self.session.probe().await
    }

    /// Ends the session.
    pub async fn close(self) {
        // A daemon that was started for this takes a moment to end.
        let daemon = self.daemon.clone();
        let end = tokio::task::spawn_blocking(move || daemon.lock().map(|mut daemon| daemon.take()).is_ok());
        let tidying = self.tidying.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(tidying) = tidying {
            let _ = tokio::time::timeout(GOODBYE, tidying).await;
        }
        self.session.close().await;
        let _ = end.await;
    }

    /// Pushes what the request names and, unless it says otherwise, its closure.
    ///
    /// # Errors
    /// Only what keeps everything from being pushed; what concerns single paths stands in the report.
    pub async fn push(&self, request: Request, progress: Arc<dyn Progress>) -> Result<Report> {
        // With many roots it is clear already that the bucket will be listed.
        let unknown = request.roots.iter().filter(|root| !self.is_fresh(&root.path)).count();
        let listing = Narinfos::begin(&self.bucket, unknown);
        let request = Arc::new(request);
        let (closure, verdicts) = self.judged(&request).await?;
        let asked = verdicts.asked(&closure).cloned().collect();
        let presence = self.ask(asked, listing, request.read_all).await?;
        let plan = plan::plan(&request, closure, verdicts, presence);
        progress.planned(&plan);
        if request.dry_run {
            let mut report = plan.settled;
            report.outcomes.extend(plan.todo.into_iter().map(|todo| {
                let nar_size = todo.info.nar_size;
                let outcome =
                    if todo.action == Action::Sign { Outcome::Signed } else { Outcome::Planned { nar_size } };
                (todo.info.path.clone(), outcome)
            }));
            return Ok(report);
        }
        self.carry_out(plan, progress).await
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, HashMap<Arc<StorePath>, Moment>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The closure of what is asked for, and what the rules say of it.
    async fn judged(&self, request: &Arc<Request>) -> Result<(Closure, Verdicts)> {
        let (store, policy) = (self.store.clone(), self.policy.clone());
        let (lent, request) = (self.daemon.clone(), request.clone());
        let judged = move || {
            let roots: Vec<_> = request.roots.iter().map(|root| root.path.clone()).collect();
            let lock = || lent.lock().unwrap_or_else(PoisonError::into_inner);
            let daemon = lock().take();
            let closure = match daemon {
                Some(mut daemon) => {
                    let closure = closure(&mut daemon, &roots);
                    *lock() = Some(daemon);
                    closure?
                }
                None => closure(&mut Daemon::connect(&store)?, &roots)?,
            };
            let verdicts = plan::judge(&store.store_dir, &request, &closure, &policy);
            Ok((closure, verdicts))
        };
        tokio::task::spawn_blocking(judged).await.unwrap_or_else(|error| {
            Err(Error::permanent(Area::General, "the thread that reads the store died").because(error))
        })
    }

    async fn carry_out(&self, plan: Plan, progress: Arc<dyn Progress>) -> Result<Report> {
        let Plan { todo, references, settled: mut report } = plan;
        // Like every fact about the bucket, those about NARs age.
        self.remembered().retain(|_, (since, _)| since.elapsed() < FACT_AGE);
        let nars = Nars::list(&*self.bucket, &todo).await?;
        let mut run = Run {
            pusher: self,
            order: Order::new(&in_order(references)),
            uploaded: (0..todo.len()).map(|_| None).collect(),
            senders: BTreeMap::new(),
            settled: BTreeMap::new(),
            running: FuturesUnordered::new(),
            waiting: Default::default(),
            begun: [0; 2],
            nars: &nars,
            todo: &todo,
            progress: &progress,
        };
        run.start();
        while let Some(step) = run.running.next().await {
            run.step(step);
        }
        let settled = std::mem::take(&mut run.settled);
        drop(run);
        report
            .outcomes
            .extend(settled.into_iter().map(|(node, outcome)| (todo[node].info.path.clone(), outcome)));
        Ok(report)
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<[u8; 32], Remembered>> {
        self.nars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets the NAR of a path into the bucket, by finding one of equal contents or by sending it.
    async fn nar(&self, todo: &Todo, nars: &Nars, progress: &Arc<dyn Progress>) -> Result<Uploaded> {
        let hash = todo.info.nar_hash;
        let cell = self.remembered().entry(hash).or_insert_with(|| (Moment::now(), Arc::default())).1.clone();
        let mut own = false;
        let uploaded = cell
            .get_or_try_init(|| async {
                own = true;
                match todo.info.nar_size < SMALL {
                    true => self.small_nar(todo, nars, progress).await,
                    false => self.large_nar(todo, nars, progress).await,
                }
            })
            .await;
        let mut uploaded = uploaded?.clone();
        if own {
            // Listings are not worth the memory.
            let remembered = Uploaded { listing: None, ..uploaded.clone() };
            self.remembered().insert(hash, (remembered.at, Arc::new(OnceCell::new_with(Some(remembered)))));
        } else {
            uploaded.sent = 0;
        }
        Ok(uploaded)
    }

    async fn small_nar(&self, todo: &Todo, nars: &Nars, progress: &Arc<dyn Progress>) -> Result<Uploaded> {
        let request = self.flow.turn().await;
        if let Some(found) = self.shared(todo, nars).await? {
            return Ok(found);
        }
        let turn = self.turn(&self.lanes.readers).await?;
        let uploaded = self.send(todo, turn, progress).await?;
        request.answered();
        Ok(uploaded)
    }

    async fn large_nar(&self, todo: &Todo, nars: &Nars, progress: &Arc<dyn Progress>) -> Result<Uploaded> {
        let next = self.lanes.large.acquire().await;
        // It is worth a question whether somebody else has sent it since the listing.
        let unknown = Nars::unknown();
        let nars = if nars.knows(&todo.info.nar_hash) { nars } else { &unknown };
        let found = {
            let _turn = self.flow.turn().await;
            self.shared(todo, nars).await?
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let turn = self.turn(&self.lanes.turns).await?;
        // What is left to be sent keeps nobody from being next.
        drop(next);
        self.send(todo, turn, progress).await
    }

    /// A NAR of equal contents that is in the bucket.
    async fn shared(&self, todo: &Todo, nars: &Nars) -> Result<Option<Uploaded>> {
        let found = nars.find(&*self.bucket, &todo.info.nar_hash).await?;
        Ok(found.map(|(object, at)| Uploaded { object, sent: 0, listing: None, at }))
    }

    async fn turn(&self, turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
        let turn = turns.clone().acquire_owned().await;
        turn.map_err(|error| Error::permanent(Area::General, "the push is over").because(error))
    }

    async fn send(
        &self,
        todo: &Todo,
        turn: OwnedSemaphorePermit,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        progress.started(&todo.info.path, todo.info.nar_size);
        self.uploader.upload(&todo.info, turn, progress).await
    }

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
        let key = keys::listing(&info.path);
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
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claim) = claims.get(path).filter(|claim| claim.has_changed().is_ok()) {
            return Err(claim.clone());
        }
        let (sender, receiver) = watch::channel(None);
        claims.insert(path.clone(), receiver);
        Ok(sender)
    }
}

/// One push in progress.
struct Run<'a> {
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
            self.pusher.claims.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
            sender.send_replace(Some(outcome.clone()));
        }
        self.settled.insert(node, outcome);
    }
}

/// What each node has to come after. A build with fail points can be told to do it the other way round, so that tests
/// see what finds that out.
fn in_order(references: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    if !fault::is("reversed-order") {
        return references;
    }
    let mut reversed = vec![Vec::new(); references.len()];
    for (node, targets) in references.iter().enumerate() {
        targets.iter().for_each(|target| reversed[*target].push(node));
    }
    reversed
}

/// Which of a run's lanes a node is in.
fn lane(todo: &Todo) -> usize {
    usize::from(todo.info.nar_size >= SMALL)
}

fn interrupted() -> Error {
    Error::new(Area::General, Retry::Transient, "another push of the same path was interrupted")
}
