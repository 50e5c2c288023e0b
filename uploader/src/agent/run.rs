//! The agent's loop.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use larder_hook::queue::{Lock, Origin, Parked, Place, Queue};
use larder_hook::time::now;

use super::inbox::{Inbox, from_queued, in_queue};
use super::records::{self, Summary};
use super::service::Service;
use super::settle::{put_off, settle, suspicion, with_hint};
use super::watch::{POLL, watch};
use crate::base::backoff::{Backoff, Jitter};
use crate::base::error::{Area, Error, Result, Retry};
use crate::format::public_key::public_keys;
use crate::push::{Outcome, Progress, Pusher, Report, Request, Root};
use crate::store::{Daemon, StoreLocation, StorePath};

/// Jobs in one push. Several pushes run at the same time, so that new jobs do not wait for a large one.
const JOBS_A_PUSH: usize = 256;
const PUSHES: usize = 4;
/// Waits after failures that keep everything from being pushed.
const WAITS: Backoff =
    Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(300), jitter: Jitter::Fifth };
/// How long a session with the bucket outlives the last push.
const SESSION_LINGER: Duration = Duration::from_secs(30);
const RECONCILE_EVERY: Duration = Duration::from_secs(3600);

/// A file of this name in `incoming/` asks for everything to be tried now; the leading dot tells it from a job.
pub const NUDGE: &str = ".nudge";

/// When an agent is done.
#[derive(Clone, Debug)]
pub enum Until {
    /// Never.
    Stopped,
    /// When nothing is queued and nothing has come for so long.
    Idle(Duration),
    /// When these jobs have left the queue.
    Done(BTreeSet<String>),
}

/// Opens a session with the bucket; tried again after failures.
pub type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Pusher>> + Send + Sync>;

/// Works a queue off.
pub struct Agent {
    queue: Arc<Queue>,
    store: Arc<StoreLocation>,
    connect: Connect,
    progress: Arc<dyn Progress>,
    inbox: Inbox,
    summary: Summary,
    service: Service,
    pusher: Option<Arc<Pusher>>,
    /// General failures in a row, and until when to wait because of them.
    failures: u32,
    wait_until: Option<Instant>,
    /// How many jobs go into a push; fewer after one that failed as a whole, to find the one that makes it fail.
    batch: usize,
    /// Whether what is parked only because something else is should be tried.
    recheck: bool,
    _lock: Lock,
}

/// A push that ended.
struct Ended {
    /// The jobs that it was for; none where it tried what was blocked.
    ids: Vec<String>,
    /// The paths that it was asked for.
    asked: BTreeSet<StorePath>,
    report: Result<Report>,
}

impl Agent {
    /// Becomes the agent of a queue; `None` when it has one.
    pub fn new(
        queue: Arc<Queue>,
        store: Arc<StoreLocation>,
        connect: Connect,
        progress: Arc<dyn Progress>,
    ) -> Result<Option<Self>> {
        let Some(lock) = queue.lock().map_err(in_queue)? else { return Ok(None) };
        let inbox = Inbox::open(queue.clone(), store.clone(), &|text| progress.remark(&text))?;
        let summary = Summary::read(queue.layout());
        Ok(Some(Self {
            queue,
            store,
            connect,
            progress,
            inbox,
            summary,
            service: Service::default(),
            pusher: None,
            failures: 0,
            wait_until: None,
            batch: JOBS_A_PUSH,
            recheck: true,
            _lock: lock,
        }))
    }

    /// Tells a service manager how it is.
    pub fn told_to(mut self, service: Service) -> Self {
        self.service = service;
        self
    }

    /// Works until `until` holds or `stop` resolves; then what is on its way gets `drain` to finish. Nothing is lost
    /// either way: what did not finish stands in the queue.
    ///
    /// # Errors
    /// Of the queue's directory; and, with [`Until::Done`], a permanent error that keeps everything from being pushed.
    pub async fn run(mut self, until: Until, stop: impl Future<Output = ()>, drain: Duration) -> Result<()> {
        let news = watch(&self.queue.layout().path().join(Place::Incoming.name()));
        let mut running = FuturesUnordered::new();
        let mut idle_since = Instant::now();
        let mut reconcile_at = Instant::now();
        let mut stop = std::pin::pin!(stop);
        self.service.ready();
        loop {
            let sign_of_life = self.service.alive(self.inbox.jobs().len());
            if let Err(error) = self.look(&mut reconcile_at) {
                // A disk that is full, too many open files: it passes, and nothing is lost meanwhile.
                self.wait(error);
            }
            if let (Until::Done(ids), true) = (&until, running.is_empty()) {
                let open = ids.iter().any(|id| self.inbox.jobs().contains_key(id));
                if !open {
                    break;
                }
            }
            tokio::select! {
                () = self.begin(&mut running) => {}
                () = &mut stop => {
                    self.drain(running, drain).await;
                    break;
                }
            }
            if !running.is_empty() || !self.inbox.jobs().is_empty() {
                idle_since = Instant::now();
            } else if matches!(until, Until::Idle(linger) if idle_since.elapsed() >= linger) {
                self.service.stopping();
                break;
            }
            if running.is_empty() && idle_since.elapsed() >= SESSION_LINGER {
                self.close_session().await;
            }
            tokio::select! {
                Some(ended) = running.next(), if !running.is_empty() => {
                    if let Err(error) = self.end(ended).await
                        && matches!(until, Until::Done(_))
                        && error.retry() == Retry::Permanent
                        // Those may be one job's, which is found out.
                        && !matches!(error.area(), Area::Store | Area::General)
                    {
                        self.close_session().await;
                        return Err(error);
                    }
                }
                () = news.notified() => {}
                () = tokio::time::sleep(self.longest_sleep(&until, idle_since).min(sign_of_life.unwrap_or(POLL))) => {}
                () = &mut stop => {
                    self.drain(running, drain).await;
                    break;
                }
            }
        }
        self.close_session().await;
        Ok(())
    }

    /// Takes in what is new, and from time to time looks after what crashes leave behind.
    fn look(&mut self, reconcile_at: &mut Instant) -> Result<()> {
        let progress = self.progress.clone();
        let remark = |text: String| progress.remark(&text);
        if *reconcile_at <= Instant::now() {
            *reconcile_at = Instant::now() + RECONCILE_EVERY;
            self.recheck = true;
            self.inbox.reconcile(&remark)?;
        }
        self.inbox.take(&remark)?;
        self.nudged()
    }

    /// Somebody asked for everything to be tried now.
    fn nudged(&mut self) -> Result<()> {
        if !self.queue.layout().remove(Place::Incoming, NUDGE).map_err(in_queue)? {
            return Ok(());
        }
        (self.wait_until, self.recheck) = (None, true);
        let ids: Vec<_> = self.inbox.jobs().keys().cloned().collect();
        for id in ids {
            if let Some(held) = self.inbox.get_mut(&id) {
                held.job.attempts.iter_mut().for_each(|attempts| attempts.next = 0);
            }
        }
        Ok(())
    }

    /// Starts pushes for the jobs that are due.
    async fn begin(&mut self, running: &mut FuturesUnordered<BoxFuture<'static, Ended>>) {
        if self.wait_until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        while running.len() < PUSHES {
            let (mut ids, mut blocked) = (Vec::new(), Vec::new());
            if std::mem::take(&mut self.recheck) {
                blocked = self.blocked();
            }
            // What is blocked is tried by itself, so that it cannot make the push of a job fail.
            if blocked.is_empty() {
                let at = now();
                let due = self.inbox.jobs().iter().filter(|(_, held)| !held.running && held.due() <= at);
                ids.extend(due.map(|(id, _)| id.clone()).take(self.batch));
                if ids.is_empty() {
                    return;
                }
            }
            let (pusher, request) = match self.prepare(&mut ids, blocked).await {
                Ok(prepared) => prepared,
                Err(error) => {
                    let ended = Ended { ids, asked: BTreeSet::new(), report: Err(error) };
                    running.push(Box::pin(std::future::ready(ended)));
                    return;
                }
            };
            for id in &ids {
                if let Some(held) = self.inbox.get_mut(id) {
                    held.running = true;
                }
            }
            let asked = request.roots.iter().map(|root| (*root.path).clone()).collect();
            let progress = self.progress.clone();
            let push = tokio::spawn(async move { pusher.push(request, progress).await });
            running.push(Box::pin(async move {
                let report = push.await.unwrap_or_else(|error| {
                    Err(Error::new(Area::General, Retry::Unknown, "a push ended unexpectedly").because(error))
                });
                Ended { ids, asked, report }
            }));
        }
    }

    /// What is parked only because something that it refers to is.
    fn blocked(&self) -> Vec<Parked> {
        let parked = self.queue.parked().map(|(parked, _)| parked).unwrap_or_default();
        parked.into_iter().filter(|one| one.blocked_by.is_some()).collect()
    }

    /// Makes a request of jobs and blocked paths. Jobs that cannot be made part of it are put off, and taken out of
    /// `ids`.
    async fn prepare(
        &mut self,
        ids: &mut Vec<String>,
        blocked: Vec<Parked>,
    ) -> Result<(Arc<Pusher>, Request)> {
        if self.pusher.as_ref().is_some_and(|pusher| pusher.check().is_err()) {
            self.close_session().await;
        }
        let pusher = match &self.pusher {
            Some(pusher) => pusher.clone(),
            None => {
                let pusher = self.pusher.insert(Arc::new((self.connect)().await?)).clone();
                // This queue has one agent: whose session is noted, it is dead.
                pusher.begin_sweep(records::note_session(self.queue.layout(), pusher.id()));
                pusher
            }
        };
        self.resolve(ids)?;
        let mut request = Request::default();
        let (at, mut keys) = (now(), BTreeSet::new());
        for id in ids.iter() {
            let Some(held) = self.inbox.jobs().get(id) else { continue };
            let built_here = held.job.origin != Origin::Retry;
            let roots = held.job.paths.iter().filter(|path| held.is_due(path, at));
            let roots = roots.filter_map(|path| from_queued(&self.store, path));
            request.roots.extend(roots.map(|path| Root { path: path.into(), built_here }));
            keys.extend(held.job.trusted_keys.iter().cloned());
        }
        for parked in blocked {
            let path = from_queued(&self.store, &parked.path);
            request.roots.extend(
                path.map(|path| Root { path: path.into(), built_here: parked.origin != Origin::Retry }),
            );
            keys.extend(parked.trusted_keys);
        }
        request.extra_keys =
            keys.iter().filter_map(|key| public_keys([key.as_str()]).ok()).flatten().collect();
        let parked = self.queue.parked().map_err(in_queue)?.0;
        let own_fault = parked.iter().filter(|parked| parked.blocked_by.is_none());
        request.parked = own_fault.filter_map(|parked| from_queued(&self.store, &parked.path)).collect();
        // What somebody queued again is tried again.
        request.parked.retain(|path| !request.roots.iter().any(|root| *root.path == *path));
        Ok((pusher, request))
    }

    /// Finds out the outputs of jobs that do not name any; a job where that fails is put off.
    fn resolve(&mut self, ids: &mut Vec<String>) -> Result<()> {
        let mut daemon: Option<Daemon> = None;
        let unknown =
            |inbox: &Inbox, id: &String| inbox.jobs().get(id).is_some_and(|held| held.job.paths.is_empty());
        for id in std::mem::take(ids) {
            if unknown(&self.inbox, &id) {
                let mut open = match daemon.take().filter(|daemon| !daemon.is_broken()) {
                    Some(daemon) => daemon,
                    None => Daemon::connect(&self.store)?,
                };
                let resolved = self.inbox.resolve(&id, &mut open);
                daemon = Some(open);
                if let Err(error) = resolved {
                    self.progress.remark(&error.to_string());
                    let parked = put_off(&mut self.inbox, &self.queue, &self.store, &id, &error)?;
                    self.tell(&parked);
                    continue;
                }
            }
            ids.push(id);
        }
        Ok(())
    }

    /// Draws the consequences of a push that ended; the error is one that keeps everything from being pushed.
    async fn end(&mut self, ended: Ended) -> Result<()> {
        let Ended { ids, asked, report } = ended;
        for id in &ids {
            if let Some(held) = self.inbox.get_mut(id) {
                held.running = false;
            }
        }
        let report = match report {
            Ok(report) => report,
            Err(error) => return self.failed(&ids, error),
        };
        if let Some(error) = suspicion(&report).cloned() {
            // Without a session the bucket has been found to be away by another push.
            let dead = match self.pusher.clone() {
                Some(pusher) => pusher.probe().await.is_err(),
                None => true,
            };
            if dead {
                self.recheck |= ids.is_empty();
                return Err(self.wait(error));
            }
        }
        self.failures = 0;
        self.wait_until = None;
        self.batch = (self.batch * 2).min(JOBS_A_PUSH);
        self.note(&report);
        let settled =
            settle(&mut self.inbox, &self.queue, &self.store, &ids, &asked, &report, &mut self.summary);
        self.summary.write(self.queue.layout());
        match settled {
            Ok(settled) => {
                self.recheck |= settled.freed;
                self.tell(&settled.parked);
                Ok(())
            }
            // A full disk, say: nothing is lost, everything is tried again.
            Err(error) => Err(self.wait(error)),
        }
    }

    fn tell(&self, parked: &[Parked]) {
        for parked in parked {
            self.progress.remark(&format!("parked `{}`: {}", parked.path, parked.reason));
        }
    }

    /// A push failed as a whole. Where that may be the fault of one of its jobs, smaller pushes find out which, and
    /// that one is put off.
    fn failed(&mut self, ids: &[String], error: Error) -> Result<()> {
        let by_content = matches!(error.area(), Area::Store | Area::General);
        if !by_content || Daemon::connect(&self.store).is_err() {
            // What is blocked was not tried at all, then.
            self.recheck |= ids.is_empty();
            return Err(self.wait(error));
        }
        match ids {
            // What is blocked stays so until the next look.
            [] => self.progress.remark(&error.to_string()),
            [id] => {
                self.progress.remark(&error.to_string());
                let parked = put_off(&mut self.inbox, &self.queue, &self.store, id, &error)?;
                self.tell(&parked);
            }
            _ => {
                self.batch = ids.len() / 2;
                return Err(self.wait(error));
            }
        }
        Ok(())
    }

    /// Lets everything wait, and says why.
    fn wait(&mut self, error: Error) -> Error {
        self.failures += 1;
        let wait = WAITS.wait(self.failures);
        self.wait_until = Some(Instant::now() + wait);
        self.progress.remark(&format!("{}; trying again in {} s", with_hint(&error), wait.as_secs().max(1)));
        self.summary.last_error = Some(error.to_string());
        self.summary.write(self.queue.layout());
        error
    }

    fn note(&mut self, report: &Report) {
        self.summary.pushed += report.count(crate::push::OutcomeKind::Pushed) as u64;
        self.summary.sent_bytes += report.bytes().1;
        self.summary.last_error = None;
        if report.outcomes.values().any(Outcome::is_available) {
            self.summary.last_success = Some(now());
        }
    }

    fn longest_sleep(&self, until: &Until, idle_since: Instant) -> Duration {
        let at = now();
        let retry = self
            .inbox
            .jobs()
            .values()
            .filter(|held| !held.running)
            .map(|held| held.due().saturating_sub(at))
            .min();
        let mut sleep = retry.map_or(POLL, Duration::from_secs).max(Duration::from_millis(200)).min(POLL);
        if let Some(until) = self.wait_until.filter(|until| *until > Instant::now()) {
            sleep = until.saturating_duration_since(Instant::now()).min(POLL);
        }
        if let (Until::Idle(linger), true) = (until, self.inbox.jobs().is_empty()) {
            sleep = sleep.min(linger.saturating_sub(idle_since.elapsed()));
        }
        sleep.max(Duration::from_millis(20))
    }

    /// Lets what is on its way finish.
    async fn drain(&mut self, mut running: FuturesUnordered<BoxFuture<'static, Ended>>, limit: Duration) {
        self.service.stopping();
        let finish = async {
            while let Some(ended) = running.next().await {
                let _ = self.end(ended).await;
            }
        };
        if tokio::time::timeout(limit, finish).await.is_err() {
            self.progress.remark("stopped before everything on its way had arrived; it stays queued");
        }
    }

    async fn close_session(&mut self) {
        // A push that was cut off may hold on to it still; its lease runs out by itself.
        if let Some(pusher) = self.pusher.take().and_then(Arc::into_inner) {
            pusher.close().await;
        }
    }
}
