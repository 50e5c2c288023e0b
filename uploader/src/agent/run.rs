//! The agent's loop.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use larder_hook::job::Origin;
use larder_hook::layout::Place;
use larder_hook::queue::{Lock, Queue, now};

use super::inbox::{Inbox, from_queued, in_queue};
use super::records::Summary;
use super::settle::{general_failure, settle};
use super::wait::{POLL, backoff, watch};
use crate::cache::signing::public_keys;
use crate::error::{Area, Error, Result, Retry};
use crate::push::{Outcome, Progress, Pusher, Report, Request, Root};
use crate::store::StoreLocation;

/// Jobs in one push. Several pushes run at the same time, so that new jobs do not wait for a large one.
const JOBS_A_PUSH: usize = 256;
const PUSHES: usize = 4;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How long a session with the bucket outlives the last push.
const SESSION_LINGER: Duration = Duration::from_secs(30);
const ORPHANS_EVERY: Duration = Duration::from_secs(3600);

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
    pusher: Option<Arc<Pusher>>,
    /// General failures in a row, and until when to wait because of them.
    failures: u32,
    wait_until: Option<Instant>,
    _lock: Lock,
}

/// A push that ended, and the jobs that it was for.
type Ended = (Vec<String>, Result<Report>);

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
            pusher: None,
            failures: 0,
            wait_until: None,
            _lock: lock,
        }))
    }

    /// Works until `until` holds or `stop` resolves; then what is on its way gets `drain` to finish. Nothing is lost
    /// either way: what did not finish stands in the queue.
    ///
    /// # Errors
    /// Of the queue's directory; and, with [`Until::Done`], a permanent error that keeps everything from being pushed.
    pub async fn run(mut self, until: Until, stop: impl Future<Output = ()>, drain: Duration) -> Result<()> {
        let news = watch(&self.queue.layout().path().join(Place::Incoming.name()));
        self.inbox.unblock()?;
        let mut running = FuturesUnordered::new();
        let mut idle_since = Instant::now();
        let mut orphans_at = Instant::now();
        let mut stop = std::pin::pin!(stop);
        loop {
            if orphans_at <= Instant::now() {
                self.inbox.adopt_orphans()?;
                orphans_at = Instant::now() + ORPHANS_EVERY;
            }
            let progress = self.progress.clone();
            self.inbox.take(&|text| progress.remark(&text))?;
            self.nudged()?;
            if let (Until::Done(ids), true) = (&until, running.is_empty()) {
                let open = ids.iter().any(|id| self.inbox.jobs().contains_key(id));
                if !open {
                    break;
                }
            }
            self.begin(&mut running).await;
            if !running.is_empty() || !self.inbox.jobs().is_empty() {
                idle_since = Instant::now();
            } else if matches!(until, Until::Idle(linger) if idle_since.elapsed() >= linger) {
                break;
            }
            if running.is_empty() && idle_since.elapsed() >= SESSION_LINGER {
                self.close_session().await;
            }
            tokio::select! {
                Some(ended) = running.next(), if !running.is_empty() => {
                    if let Err(error) = self.end(ended)
                        && matches!(until, Until::Done(_))
                        && error.retry() == Retry::Permanent
                    {
                        self.close_session().await;
                        return Err(error);
                    }
                }
                () = news.notified() => {}
                () = tokio::time::sleep(self.longest_sleep(&until, idle_since)) => {}
                () = &mut stop => {
                    self.drain(running, drain).await;
                    break;
                }
            }
        }
        self.close_session().await;
        Ok(())
    }

    /// Somebody asked for everything to be tried now.
    fn nudged(&mut self) -> Result<()> {
        let layout = self.queue.layout();
        if layout.read(Place::Incoming, NUDGE).map_err(in_queue)?.is_none() {
            return Ok(());
        }
        layout.unlink(Place::Incoming, NUDGE).map_err(in_queue)?;
        self.wait_until = None;
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
            let (at, mut ids) = (now(), Vec::new());
            for (id, held) in self.inbox.jobs() {
                if !held.running && held.due() <= at && ids.len() < JOBS_A_PUSH {
                    ids.push(id.clone());
                }
            }
            if ids.is_empty() {
                return;
            }
            match self.prepare(&ids).await {
                Ok((pusher, request)) => {
                    let progress = self.progress.clone();
                    for id in &ids {
                        if let Some(held) = self.inbox.get_mut(id) {
                            held.running = true;
                        }
                    }
                    let push = tokio::spawn(async move { pusher.push(request, progress).await });
                    running.push(Box::pin(async move {
                        let report = push.await.unwrap_or_else(|error| {
                            Err(Error::new(Area::General, Retry::Unknown, "a push ended unexpectedly")
                                .because(error))
                        });
                        (ids, report)
                    }));
                }
                Err(error) => {
                    running.push(Box::pin(std::future::ready((ids, Err(error)))));
                    return;
                }
            }
        }
    }

    async fn prepare(&mut self, ids: &[String]) -> Result<(Arc<Pusher>, Request)> {
        let pusher = match &self.pusher {
            Some(pusher) => pusher.clone(),
            None => self.pusher.insert(Arc::new((self.connect)().await?)).clone(),
        };
        let mut request = Request::default();
        for id in ids {
            self.inbox.resolve(id)?;
            let Some(held) = self.inbox.jobs().get(id) else { continue };
            let built_here = held.job.origin != Origin::Retry;
            let roots = held.job.paths.iter().filter_map(|path| from_queued(&self.store, path));
            request.roots.extend(roots.map(|path| Root { path, built_here }));
            let keys = held.job.trusted_keys.iter().filter_map(|key| public_keys([key.as_str()]).ok());
            request.extra_keys.extend(keys.flatten());
        }
        request.extra_keys.sort_by(|a, b| (&a.name, a.key.as_bytes()).cmp(&(&b.name, b.key.as_bytes())));
        request.extra_keys.dedup();
        let parked = self.queue.parked().map_err(in_queue)?.0;
        let own_fault = parked.iter().filter(|parked| parked.blocked_by.is_none());
        request.parked = own_fault.filter_map(|parked| from_queued(&self.store, &parked.path)).collect();
        // What somebody queued again is tried again.
        request.parked.retain(|path| !request.roots.iter().any(|root| root.path == *path));
        Ok((pusher, request))
    }

    /// Draws the consequences of a push that ended; the error is one that keeps everything from being pushed.
    fn end(&mut self, (ids, report): Ended) -> Result<()> {
        let failure = match &report {
            Err(error) => Some(error.clone()),
            Ok(report) => general_failure(report).cloned(),
        };
        if let Some(error) = failure {
            self.failures += 1;
            let wait = backoff(self.failures, FIRST_WAIT, LONGEST_WAIT);
            self.wait_until = Some(Instant::now() + wait);
            let hint = error.hint_text().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            self.progress.remark(&format!("{error}{hint}; trying again in {} s", wait.as_secs().max(1)));
            for id in &ids {
                if let Some(held) = self.inbox.get_mut(id) {
                    held.running = false;
                }
            }
            self.summary.last_error = Some(error.to_string());
            self.summary.write(self.queue.layout());
            return Err(error);
        }
        let Ok(report) = report else { return Ok(()) };
        self.failures = 0;
        self.wait_until = None;
        self.note(&report);
        let parked = settle(&mut self.inbox, &self.queue, &self.store, &ids, &report, &mut self.summary);
        self.summary.write(self.queue.layout());
        for parked in parked? {
            self.progress.remark(&format!("parked `{}`: {}", parked.path, parked.reason));
        }
        Ok(())
    }

    fn note(&mut self, report: &Report) {
        self.summary.pushed += report.count("pushed") as u64;
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
        let finish = async {
            while let Some(ended) = running.next().await {
                let _ = self.end(ended);
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
