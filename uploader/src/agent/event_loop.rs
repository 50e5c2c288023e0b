//! The agent's event loop: decides when jobs are taken, pushed and settled.
//!
//! Nothing here blocks. The queue and the daemon belong to [`QueueThread`], and each push is a task of its own, so
//! uploads and the renewal of the lease go on while the loop awaits an answer.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use larder_hook::queue::{Place, Queue};
use larder_hook::time::now;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::decide::with_hint;
use super::keeper::{Batch, Blame, Keeper};
use super::looks::Looks;
use super::queue_thread::QueueThread;
use super::running_push::{EndedPush, Suspicion, begin};
use super::service::Service;
use super::watch::{POLL, watch};
use crate::base::backoff::{Backoff, Jitter};
use crate::base::error::{Area, Error, Result, Retry};
use crate::push::{Progress, Pusher, Request};
use crate::store::StoreLocation;

/// The most jobs of one push.
const JOBS_A_PUSH: usize = 256;
/// The most pushes at the same time. With several, new jobs do not wait for a large one.
const PUSHES: usize = 4;
/// The pauses after failures that keep everything from being pushed.
const PAUSES: Backoff =
    Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(300), jitter: Jitter::Fifth };
/// How long a session with the bucket outlives the last push.
const SESSION_LINGER: Duration = Duration::from_secs(30);
/// How often the queue is repaired after crashes of others.
const RECONCILE_EVERY: Duration = Duration::from_secs(3600);
/// The age from which copies of credentials may be out of date. An agent that has just started would get the same copies
/// again.
const COPIES_AGE: Duration = Duration::from_secs(60);
/// How long the agent waits at its end for the last records to be written.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// When an agent ends by itself.
#[derive(Clone, Debug)]
pub enum Until {
    /// Never.
    Stopped,
    /// When the queue has been empty for this time.
    Idle(Duration),
    /// When these jobs have left the queue.
    Done(BTreeSet<String>),
}

/// Opens a session with the bucket; called again after failures.
pub type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Pusher>> + Send + Sync>;

/// The agent of a queue.
pub struct Agent {
    queue: QueueThread,
    /// The directory in which new jobs appear.
    incoming: PathBuf,
    connect: Connect,
    progress: Arc<dyn Progress>,
    service: Service,
    pusher: Option<Arc<Pusher>>,
    /// The session that is being closed.
    closing: JoinSet<()>,
    pushes: FuturesUnordered<BoxFuture<'static, EndedPush>>,
    /// How many general failures came in a row, and when the pause after the last one ends.
    failures: u32,
    pause_ends: Option<Instant>,
    /// How many jobs the next push takes. Halved after a push that failed as a whole, to find the job that makes it
    /// fail.
    batch: usize,
    /// Whether the next push tries the parked paths that are only blocked.
    recheck: bool,
    reconcile_at: Instant,
    /// When the service manager copied the credentials, if the agent uses copies.
    copied_at: Option<Instant>,
    failed_builds: Looks,
}

impl Agent {
    /// Becomes the agent of a queue; `None` when the queue has one.
    pub async fn open(
        queue: Arc<Queue>,
        store: Arc<StoreLocation>,
        connect: Connect,
        progress: Arc<dyn Progress>,
    ) -> Result<Option<Self>> {
        let incoming = queue.layout().path().join(Place::Incoming.name());
        let Some(queue) = QueueThread::start(queue, store, progress.clone()).await? else { return Ok(None) };
        Ok(Some(Self {
            queue,
            incoming,
            connect,
            progress,
            service: Service::default(),
            pusher: None,
            closing: JoinSet::new(),
            pushes: FuturesUnordered::new(),
            failures: 0,
            pause_ends: None,
            batch: JOBS_A_PUSH,
            recheck: true,
            reconcile_at: Instant::now(),
            copied_at: None,
            failed_builds: Looks::default(),
        }))
    }

    /// Says that the service manager copied the credentials when it started the agent. When such an agent is more than a
    /// minute old and the server refuses the credentials, the agent ends with an error: the service manager starts the
    /// agent again with new copies.
    pub fn with_copied_credentials(mut self) -> Self {
        self.copied_at = Some(Instant::now());
        self
    }

    /// Reports the agent's state to a service manager.
    pub fn with_service(mut self, service: Service) -> Self {
        self.service = service;
        self
    }

    /// Lets the oldest jobs keep nothing from garbage collection while all jobs together would keep more than so many bytes
    /// of NARs. The jobs stay queued.
    pub fn with_max_pinned(self, bytes: Option<u64>) -> Self {
        // Without the thread, the loop ends at its first question.
        let _ = self.queue.order(move |keeper| keeper.limit_pinned(bytes));
        self
    }

    /// Looks for the logs of builds that failed, now and then and at the end, and publishes them.
    pub fn with_failed_logs(mut self, is_on: bool) -> Self {
        self.failed_builds = Looks::new(is_on);
        self
    }

    /// Works until `until` holds or `stop` resolves. After `stop`, running pushes get the time `drain` to finish. What
    /// did not finish stays queued.
    ///
    /// # Errors
    /// The queue's thread has died; or, with [`Until::Done`], a permanent error keeps everything from being pushed; or the
    /// server refuses [copied credentials](Agent::with_copied_credentials).
    pub async fn run(mut self, until: Until, stop: impl Future<Output = ()>, drain: Duration) -> Result<()> {
        let mut service = std::mem::take(&mut self.service);
        let (state, pulse) = (self.queue.watch(), self.queue.pulse().clone());
        service.ready();
        let ended = tokio::select! {
            ended = self.work(&until) => Some(ended),
            () = stop => None,
            never = service.give_signs_of_life(state, &pulse) => match never {},
        };
        service.stopping();
        let finish = async {
            if ended.is_none() {
                self.drain(drain).await;
            }
            self.begin_to_close();
            // What was ordered before is done when this is answered.
            let last_writes = tokio::time::timeout(LAST_WRITES, self.queue.ask(|_| ()));
            // Both at the same time: `TimeoutStopSec` of the unit covers the drain and the longer of the two.
            let closed = async { while self.closing.join_next().await.is_some() {} };
            let _ = futures::future::join(last_writes, closed).await;
        };
        // The manager may read the last messages only now.
        let arrived = tokio::time::timeout(drain.max(LAST_WRITES), service.arrived());
        let _ = futures::future::join(finish, arrived).await;
        ended.unwrap_or(Ok(()))
    }

    /// Takes jobs and pushes them until `until` holds.
    async fn work(&mut self, until: &Until) -> Result<()> {
        let news = watch(&self.incoming);
        if let Until::Done(ids) = until {
            let ids = ids.clone();
            self.queue.ask(|keeper| keeper.await_jobs(ids)).await?;
        }
        let mut idle_since = Instant::now();
        loop {
            self.queue.pulse().event_loop_steps();
            self.take_jobs().await?;
            if matches!(until, Until::Done(_)) && self.pushes.is_empty() && self.queue.state().awaited == 0 {
                return self.publish_failed_logs(true).await;
            }
            self.begin_pushes().await?;
            self.publish_failed_logs(false).await?;
            if !self.pushes.is_empty() || self.queue.state().jobs > 0 {
                idle_since = Instant::now();
            } else if matches!(until, Until::Idle(linger) if idle_since.elapsed() >= *linger) {
                return self.publish_failed_logs(true).await;
            }
            if self.pushes.is_empty() && idle_since.elapsed() >= SESSION_LINGER {
                self.close_session().await;
            }
            let sleep = self.longest_sleep(until, idle_since);
            tokio::select! {
                Some(ended) = self.pushes.next(), if !self.pushes.is_empty() => {
                    let general = self.end_push(ended).await?;
                    if let Some(error) = general.filter(|error| self.ends(until, error)) {
                        return Err(error);
                    }
                }
                () = news.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Takes new jobs, and repairs the queue from time to time.
    async fn take_jobs(&mut self) -> Result<()> {
        let reconcile = self.reconcile_at <= Instant::now();
        if reconcile {
            self.reconcile_at = Instant::now() + RECONCILE_EVERY;
            self.recheck = true;
        }
        match self.queue.ask(move |keeper| keeper.take_jobs(reconcile)).await? {
            Ok(true) => {
                (self.pause_ends, self.recheck) = (None, true);
                self.failed_builds.hurry();
            }
            Ok(false) => {}
            // A full disk or too many open files: a pause helps, and nothing is lost meanwhile.
            Err(error) => drop(self.pause(error)),
        }
        Ok(())
    }

    /// Begins pushes for the jobs that are due.
    async fn begin_pushes(&mut self) -> Result<()> {
        if self.pause_ends.is_some_and(|end| end > Instant::now()) {
            return Ok(());
        }
        while self.pushes.len() < PUSHES {
            let (limit, recheck) = (self.batch, std::mem::take(&mut self.recheck));
            let Some(batch) = self.queue.ask(move |keeper| keeper.choose(limit, recheck)).await? else {
                return Ok(());
            };
            let ids = batch.ids.clone();
            match self.prepare(batch).await? {
                Ok((pusher, ids, request)) => {
                    self.pushes.push(begin(pusher, ids, request, self.progress.clone()));
                }
                Err(error) => {
                    let (asked, report) = (BTreeSet::new(), Err(error));
                    let ended = EndedPush { ids, asked, report, suspicion: Suspicion::None };
                    self.pushes.push(Box::pin(std::future::ready(ended)));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Prepares the push of a batch: a session, the jobs that can be pushed, and the request. The inner error keeps the
    /// batch from being pushed.
    async fn prepare(&mut self, mut batch: Batch) -> Result<Result<(Arc<Pusher>, Vec<String>, Request)>> {
        let pusher = match self.session().await? {
            Ok(pusher) => pusher,
            Err(error) => return Ok(Err(error)),
        };
        let request = move |keeper: &mut Keeper| {
            let request = keeper.request(&mut batch)?;
            Ok((batch.ids, request))
        };
        let prepared: Result<_> = self.queue.ask(request).await?;
        Ok(prepared.map(|(ids, request)| (pusher, ids, request)))
    }

    /// The session with the bucket, opened if need be. The inner error is that of opening it.
    async fn session(&mut self) -> Result<Result<Arc<Pusher>>> {
        if self.pusher.as_ref().is_some_and(|pusher| pusher.check().is_err()) {
            self.close_session().await;
        }
        if let Some(pusher) = &self.pusher {
            return Ok(Ok(pusher.clone()));
        }
        let pusher = match (self.connect)().await {
            Ok(pusher) => self.pusher.insert(Arc::new(pusher)).clone(),
            Err(error) => return Ok(Err(error)),
        };
        let (sweeper, runtime) = (pusher.clone(), Handle::current());
        // A single request: the record of the former session is replaced, so an agent that is stopped meanwhile must
        // still begin the sweep that removes what the former session left.
        let begin_sweep = move |keeper: &mut Keeper| {
            let former = keeper.note_session(sweeper.id());
            keeper.note_bucket(sweeper.address());
            let _runtime = runtime.enter();
            sweeper.begin_sweep(former);
        };
        self.queue.ask(begin_sweep).await?;
        Ok(Ok(pusher))
    }

    /// Publishes the logs of builds that failed, if it is time to look for them. A failure makes a remark; the next look finds
    /// them again.
    async fn publish_failed_logs(&mut self, is_last: bool) -> Result<()> {
        if !self.failed_builds.is_due(is_last) || self.pause_ends.is_some_and(|end| end > Instant::now()) {
            return Ok(());
        }
        let published = match self.failed_builds.find(&self.queue, is_last).await? {
            Ok(found) if found.is_empty() => self.failed_builds.note(&self.queue, found),
            Ok(found) => match self.session().await? {
                Ok(pusher) => self.failed_builds.publish(&self.queue, &pusher, found, &*self.progress).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = published {
            self.progress.remark(&format!("cannot publish the logs of failed builds: {error}"));
        }
        Ok(())
    }

    /// Draws the consequences of a push that has ended. The inner error keeps everything from being pushed.
    async fn end_push(&mut self, ended: EndedPush) -> Result<Option<Error>> {
        let EndedPush { ids, asked, report, suspicion } = ended;
        let report = match report {
            Ok(report) => report,
            Err(error) => return self.end_failed_push(ids, error).await,
        };
        if !matches!(suspicion, Suspicion::None) {
            self.recheck |= ids.is_empty();
            self.queue.order(move |keeper| keeper.release(&ids))?;
            // The next push opens another session. That fails, and begins a pause, if the bucket does not work.
            let Suspicion::Bucket(error) = suspicion else { return Ok(None) };
            return Ok(Some(self.pause(error)));
        }
        (self.failures, self.pause_ends) = (0, None);
        self.batch = (self.batch * 2).min(JOBS_A_PUSH);
        match self.queue.ask(move |keeper| keeper.settle(&ids, &asked, &report)).await? {
            Ok(frees_others) => {
                self.recheck |= frees_others;
                Ok(None)
            }
            // A full disk, for example: everything is tried again.
            Err(error) => Ok(Some(self.pause(error))),
        }
    }

    /// Draws the consequences of a push that failed as a whole. When one of its jobs may be the cause, smaller pushes
    /// find that job, which is then put off. The inner error keeps everything from being pushed.
    async fn end_failed_push(&mut self, ids: Vec<String>, error: Error) -> Result<Option<Error>> {
        let jobs = ids.len();
        let blame = if matches!(error.area(), Area::Store | Area::General) {
            let cause = error.clone();
            // A single request: an agent that is stopped meanwhile still counts the attempt.
            self.queue.ask(move |keeper| keeper.settle_failure(&ids, &cause)).await?
        } else {
            self.queue.order(move |keeper| keeper.release(&ids))?;
            Ok(Blame::Everything)
        };
        match blame {
            Ok(Blame::Everything) => self.recheck |= jobs == 0,
            Ok(Blame::OneOfThese) => self.batch = jobs / 2,
            Ok(Blame::Settled) => return Ok(None),
            Err(error) => return Ok(Some(error)),
        }
        Ok(Some(self.pause(error)))
    }

    /// Pauses all pushes, and says why. Returns the error.
    fn pause(&mut self, error: Error) -> Error {
        self.failures += 1;
        let pause = PAUSES.wait(self.failures);
        self.pause_ends = Some(Instant::now() + pause);
        self.progress.remark(&format!("{}; trying again in {} s", with_hint(&error), pause.as_secs().max(1)));
        let text = error.to_string();
        // Without the thread, the loop ends at its next question.
        let _ = self.queue.order(|keeper| keeper.note_error(text));
        error
    }

    /// How long the loop may sleep when nothing happens.
    fn longest_sleep(&self, until: &Until, idle_since: Instant) -> Duration {
        let state = self.queue.state();
        let mut sleep = match state.next_due {
            // The end of a push wakes the loop.
            Some(_) if self.pushes.len() >= PUSHES => POLL,
            Some(due) => {
                Duration::from_secs(due.saturating_sub(now())).clamp(Duration::from_millis(200), POLL)
            }
            None => POLL,
        };
        if let Some(end) = self.pause_ends.filter(|end| *end > Instant::now()) {
            sleep = end.saturating_duration_since(Instant::now()).min(POLL);
        }
        if let (Until::Idle(linger), 0) = (until, state.jobs) {
            sleep = sleep.min(linger.saturating_sub(idle_since.elapsed()));
        }
        sleep.max(Duration::from_millis(20))
    }

    /// Whether a general error ends the agent.
    fn ends(&self, until: &Until, error: &Error) -> bool {
        let area = error.area();
        // Such an error may be that of one job, which smaller pushes find.
        let is_of_a_job = matches!(area, Area::Store | Area::General);
        let copies_are_old = self.copied_at.is_some_and(|at| at.elapsed() >= COPIES_AGE);
        (area == Area::Credentials && copies_are_old)
            || (matches!(until, Until::Done(_)) && error.retry() == Retry::Permanent && !is_of_a_job)
    }

    /// Lets running pushes finish and their consequences be written, for at most this time.
    async fn drain(&mut self, limit: Duration) {
        let finish = async {
            while let Some(ended) = self.pushes.next().await {
                let _ = self.end_push(ended).await;
            }
            // The thread has then also done what the loop had asked for when it was stopped.
            let _ = self.queue.ask(|_| ()).await;
        };
        if tokio::time::timeout(limit, finish).await.is_ok() {
            return;
        }
        // Pushes may have finished while the thread was busy.
        while self.pushes.next().now_or_never().flatten().is_some() {}
        self.progress.remark(if self.pushes.is_empty() {
            "stopped before the queue's thread had finished its work; the next agent repeats what is missing"
        } else {
            "stopped before all running pushes had finished; their jobs stay queued"
        });
    }

    /// Closes the session with the bucket.
    async fn close_session(&mut self) {
        self.begin_to_close();
        while self.closing.join_next().await.is_some() {}
    }

    /// Begins to close the session in a task of its own, which goes on when the loop is stopped.
    fn begin_to_close(&mut self) {
        // A push that was cut off may hold the session still; its lease expires.
        if let Some(pusher) = self.pusher.take().and_then(Arc::into_inner) {
            self.closing.spawn(pusher.close());
        }
    }
}

#[cfg(test)]
#[path = "event_loop_tests.rs"]
mod tests;
