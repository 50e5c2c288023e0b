//! Carries out pushes: asks, plans, uploads in parallel, publishes in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix_derivation::StorePath;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::outcome::{Outcome, Report};
use super::progress::Progress;
use super::run::Run;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::bucket::Bucket;
use crate::format::signature::SecretKey;
use crate::push::decide::plan::{self, Action, Plan, Request, Verdicts};
use crate::push::decide::rules::Policy;
use crate::push::publish::narinfo::FACT_AGE;
use crate::push::send::budget::Budget;
use crate::push::send::compress::Settings;
use crate::push::send::flow::Flow;
use crate::push::send::nar::{Lanes, MOST_LARGE, Remembered};
use crate::push::send::pace::Pace;
use crate::push::send::produce::PART;
use crate::push::send::upload::Uploader;
use crate::session::lease::{GOODBYE, Session};
use crate::session::reservation::Reservations;
use crate::session::sweep;
use crate::store::{Closure, Daemon, StoreLocation, closure};
use crate::survey::presence::{Narinfos, Nars};

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

/// Memory for compressed parts that are being sent, over all uploads; beside them, one for each job is being filled.
/// This is what a gigabit carries in a quarter of a second, so that requests may take as long as that.
const SENDING: u64 = 32 << 20;

/// Pushes paths into a bucket. One serves any number of pushes, also at the same time.
#[derive(Debug)]
pub struct Pusher {
    pub(crate) bucket: Arc<dyn Bucket>,
    pub(crate) store: Arc<StoreLocation>,
    pub(crate) keys: Vec<SecretKey>,
    pub(crate) session: Session,
    policy: Arc<Policy>,
    /// A connection that is open already; what it keeps in the store is kept for as long as this.
    daemon: Arc<Mutex<Option<Daemon>>>,
    pub(crate) uploader: Uploader,
    pub(crate) lanes: Lanes,
    pub(crate) reservations: Reservations,
    /// Turns for small NARs, from the first byte read to the answer of their PUT, and for all other small requests.
    pub(crate) flow: Flow,
    /// When each path was last seen, or put, in the bucket.
    facts: Mutex<HashMap<Arc<StorePath>, Moment>>,
    /// Paths that a running push works on, so that another waits for it instead of doing the same.
    pub(crate) claims: Mutex<HashMap<Arc<StorePath>, watch::Receiver<Option<Outcome>>>>,
    /// NARs of this session with the time of their upload, so that equal contents are sent once.
    pub(crate) nars: Mutex<HashMap<[u8; 32], Remembered>>,
    /// Removes what dead writers have left.
    pub(crate) tidying: Mutex<Option<JoinHandle<()>>>,
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
        let reservations = Reservations::new(bucket.clone(), session.id(), session.has_conditional_writes());
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
            reservations,
            flow: Flow::new(),
            facts: Mutex::default(),
            claims: Mutex::default(),
            nars: Mutex::default(),
            tidying: Mutex::default(),
        })
    }

    /// Takes over a connection to the daemon, to ask it about closures. Its temporary roots stay until the session ends.
    pub fn lend(&self, daemon: Daemon) {
        *lock(&self.daemon) = Some(daemon);
    }

    /// What tells this session from all others.
    pub fn id(&self) -> &str {
        self.session.id()
    }

    /// Begins to remove what writers that were killed have left in the bucket; `former` is the id of a session that is
    /// known to be dead. Nobody waits for it but [`Pusher::close`], and not for long.
    pub fn tidy(&self, former: Option<String>) {
        *lock(&self.tidying) = Some(sweep::begin(self.bucket.clone(), self.id().to_owned(), former));
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

    pub(crate) fn facts(&self) -> MutexGuard<'_, HashMap<Arc<StorePath>, Moment>> {
        lock(&self.facts)
    }

    /// The closure of what is asked for, and what the rules say of it.
    async fn judged(&self, request: &Arc<Request>) -> Result<(Closure, Verdicts)> {
        let (store, policy) = (self.store.clone(), self.policy.clone());
        let (lent, request) = (self.daemon.clone(), request.clone());
        let judged = move || {
            let roots: Vec<_> = request.roots.iter().map(|root| root.path.clone()).collect();
            let lock = || lock(&lent);
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
        let settled = Run::new(self, &todo, &references, &nars, &progress).finish().await;
        report
            .outcomes
            .extend(settled.into_iter().map(|(node, outcome)| (todo[node].info.path.clone(), outcome)));
        Ok(report)
    }

    pub(crate) fn remembered(&self) -> MutexGuard<'_, HashMap<[u8; 32], Remembered>> {
        lock(&self.nars)
    }
}
