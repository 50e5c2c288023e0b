//! Flush: asks the agent to try everything that is queued now, or waits until the jobs that are queued now have left the
//! queue. Who waits becomes the queue's agent when the queue has none.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_hook::queue::{Entry, Place, Queue};
use larder_hook::store_path::StorePath as QueuedPath;

use super::event_loop::{Agent, Connect, Until};
use super::inbox::NUDGE;
use crate::base::error::Result;
use crate::base::queue_error::in_queue;
use crate::push::Progress;
use crate::store::StoreLocation;

/// How often flush checks the agent's progress, and whether there still is an agent.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// How long running pushes may go on after the timeout or an interrupt.
const DRAIN: Duration = Duration::from_secs(5);

/// The jobs that were queued when the flush began.
#[derive(Debug)]
pub(crate) struct Flush {
    queue: Arc<Queue>,
    ids: BTreeSet<String>,
    paths: BTreeSet<QueuedPath>,
    /// See [`Agent::with_max_pinned`].
    max_pinned: Option<u64>,
    /// See [`Agent::with_failed_logs`].
    failed_logs: bool,
}

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// So many jobs are still queued.
    Left(usize),
    /// The process was asked to end.
    Interrupted,
}

impl Flush {
    /// Notes the jobs that are queued now, and the paths that they name.
    pub(crate) fn begin(queue: Arc<Queue>) -> Result<Self> {
        let (mut ids, mut paths) = (BTreeSet::new(), BTreeSet::new());
        // A job moves from the first place to the second, so this order misses no job.
        for place in [Place::Incoming, Place::Work] {
            for id in queue.list(place).map_err(in_queue)? {
                match queue.read(place, &id) {
                    Ok(Entry::Job(job, _)) => paths.extend(job.paths),
                    // The agent does not work on these files.
                    Ok(Entry::Gone) => continue,
                    Ok(Entry::Bad(bad)) if bad.is_to_be_left_alone() => continue,
                    Err(error) if error.is_no_file() => continue,
                    // The agent restores the job.
                    Ok(Entry::Bad(_)) | Err(_) => {}
                }
                ids.insert(id);
            }
        }
        Ok(Self { queue, ids, paths, max_pinned: None, failed_logs: false })
    }

    /// Sets a limit for the case that the flush becomes the agent, see [`Agent::with_max_pinned`].
    pub(crate) fn with_max_pinned(mut self, limit: Option<u64>) -> Self {
        self.max_pinned = limit;
        self
    }

    /// Also publishes the logs of builds that failed, see [`Agent::with_failed_logs`]. Where another program is the agent, the flush
    /// asks it to, and does not wait for that.
    pub(crate) fn with_failed_logs(mut self, is_on: bool) -> Self {
        self.failed_logs = is_on;
        self
    }

    /// The paths that the queued jobs name.
    pub(super) fn into_paths(self) -> BTreeSet<QueuedPath> {
        self.paths
    }

    /// How many jobs the flush waits for.
    pub(crate) fn jobs(&self) -> usize {
        self.ids.len()
    }

    /// Asks the agent to try every job and every blocked path now, before the time of the next attempt. Returns whether
    /// an agent runs.
    ///
    /// # Errors
    /// The queue cannot be written or read.
    pub(crate) fn ask_agent(&self) -> Result<bool> {
        self.queue.layout().write(Place::State, Place::Incoming, NUDGE, b"").map_err(in_queue)?;
        self.queue.has_agent().map_err(in_queue)
    }

    /// How many of the flush's paths are parked now, and how many paths are parked in all.
    pub(crate) fn parked(&self) -> Result<(usize, usize)> {
        let parked = self.queue.parked().map_err(in_queue)?.0;
        let own = parked.iter().filter(|parked| self.paths.contains(&parked.path)).count();
        Ok((own, parked.len()))
    }

    /// Waits for the queue's agent, or becomes it, until the jobs have left the queue, the deadline has passed, or
    /// `stop` resolves.
    ///
    /// # Errors
    /// The queue cannot be read, or a permanent error keeps everything from being pushed.
    pub(crate) async fn run(
        &self,
        store: &Arc<StoreLocation>,
        connect: Connect,
        progress: Arc<dyn Progress>,
        deadline: Option<Instant>,
        stop: impl Future<Output = ()>,
    ) -> Result<Flushed> {
        // No path waits for its next attempt while somebody waits for the path.
        let _ = self.ask_agent();
        let connect: Arc<dyn Fn() -> _ + Send + Sync> = Arc::from(connect);
        let mut stop = pin!(stop);
        loop {
            let left = self.left()?;
            if (left == 0 && !self.failed_logs) || deadline.is_some_and(|deadline| deadline <= Instant::now())
            {
                return Ok(Flushed::Left(left));
            }
            let (connect, progress) = (connect.clone(), progress.clone());
            let connect: Connect = Box::new(move || connect());
            if let Some(agent) = Agent::open(self.queue.clone(), store.clone(), connect, progress).await? {
                let agent = agent.with_max_pinned(self.max_pinned).with_failed_logs(self.failed_logs);
                return self.work(agent, deadline, stop).await;
            }
            if left == 0 {
                return Ok(Flushed::Left(0));
            }
            tokio::select! {
                () = tokio::time::sleep(CHECK_EVERY) => {}
                () = &mut stop => return Ok(Flushed::Interrupted),
            }
        }
    }

    /// Works as the queue's agent.
    async fn work(
        &self,
        agent: Agent,
        deadline: Option<Instant>,
        stop: impl Future<Output = ()>,
    ) -> Result<Flushed> {
        let mut is_interrupted = false;
        let out_of_time = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let end = async {
            tokio::select! { () = out_of_time => {}, () = stop => is_interrupted = true }
        };
        agent.run(Until::Done(self.ids.clone()), end, DRAIN).await?;
        if is_interrupted { Ok(Flushed::Interrupted) } else { Ok(Flushed::Left(self.left()?)) }
    }

    /// How many of the jobs are still queued.
    fn left(&self) -> Result<usize> {
        let mut left = self.queue.list(Place::Incoming).map_err(in_queue)?;
        left.extend(self.queue.list(Place::Work).map_err(in_queue)?);
        Ok(left.iter().filter(|id| self.ids.contains(*id)).count())
    }
}
