//! Everything that the agent reads and writes in the queue's directory, and everything that it asks the Nix daemon.
//!
//! All of it blocks, a silent daemon for minutes. The keeper therefore lives on a thread of its own, see
//! [`super::queue_thread`].

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_hook::printable;
use larder_hook::queue::{Lock, Origin, Parked, Queue};
use larder_hook::time::now;

use super::apply::Target;
use super::daemon_connection::DaemonConnection;
use super::decide::Clock;
use super::failed_builds::{self, Found};
use super::inbox::Inbox;
use super::path_conversion::from_queued;
use super::pinned::{Limit, Released};
use super::records::{self, Summary};
use super::relied_on::ReliedOn;
use crate::base::error::{Error, Result};
use crate::base::queue_error::in_queue;
use crate::format::public_key::public_keys;
use crate::push::{Progress, Report, Request, Root};
use crate::store::{Daemon, StoreLocation, StorePath};

/// What the event loop has to know of the queue at all times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueState {
    /// How many jobs the agent has taken and not finished.
    pub(super) jobs: usize,
    /// Whether the agent has looked for new jobs since it started. Before, more jobs may be queued.
    pub(super) is_complete: bool,
    /// How many jobs that somebody waits for are unfinished.
    pub(super) awaited: usize,
    /// When the first path is due that no push works on, in seconds since 1970; `None` without such a path.
    pub(super) next_due: Option<u64>,
}

/// What one push is for: jobs, or parked paths that are only blocked.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// The jobs.
    pub(super) ids: Vec<String>,
    /// The blocked paths. They have a push without jobs, so that they cannot make a job's push fail.
    blocked: Vec<Parked>,
}

/// What a push that failed as a whole failed because of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// Something that keeps everything from being pushed, such as a daemon that does not answer.
    Everything,
    /// One of several jobs.
    OneOfThese,
    /// Its only job, which has been put off. Or blocked paths, which stay blocked until the next reconciliation.
    Settled,
}

/// Keeps the queue of one agent.
#[derive(Debug)]
pub(super) struct Keeper {
    queue: Arc<Queue>,
    store: Arc<StoreLocation>,
    inbox: Inbox,
    summary: Summary,
    relied_on: ReliedOn,
    daemon: DaemonConnection,
    remarks: Remarks,
    awaited: BTreeSet<String>,
    /// Whether new jobs have been taken at least once.
    has_taken: bool,
    max_pinned: Option<Limit>,
    _lock: Lock,
}

/// Where the keeper's remarks for people go.
struct Remarks(Arc<dyn Progress>);

impl std::fmt::Debug for Remarks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remarks")
    }
}

impl Keeper {
    /// Locks the queue and loads the jobs in `work/`; `None` when the queue has an agent.
    pub(super) fn open(
        queue: Arc<Queue>,
        store: Arc<StoreLocation>,
        progress: Arc<dyn Progress>,
    ) -> Result<Option<Self>> {
        let Some(lock) = queue.lock().map_err(in_queue)? else { return Ok(None) };
        let inbox = Inbox::open(queue.clone(), store.clone(), &|text| progress.remark(&text))?;
        Ok(Some(Self {
            inbox,
            summary: Summary::read(queue.layout()),
            relied_on: ReliedOn::default(),
            daemon: DaemonConnection::new(store.clone()),
            remarks: Remarks(progress),
            awaited: BTreeSet::new(),
            has_taken: false,
            max_pinned: None,
            _lock: lock,
            queue,
            store,
        }))
    }

    /// The present state.
    pub(super) fn state(&self) -> QueueState {
        let jobs = self.inbox.jobs();
        QueueState {
            jobs: jobs.len(),
            is_complete: self.has_taken,
            awaited: self.awaited.iter().filter(|id| jobs.contains_key(*id)).count(),
            next_due: jobs.values().filter(|taken| !taken.is_being_pushed).map(|taken| taken.due()).min(),
        }
    }

    /// Ends the connection to the daemon.
    pub(super) fn disconnect(&mut self) {
        self.daemon.close();
    }

    /// Counts these jobs as [`QueueState::awaited`] from now on.
    pub(super) fn await_jobs(&mut self, ids: BTreeSet<String>) {
        self.awaited = ids;
    }

    /// Takes new jobs; with `reconcile`, repairs the queue first. Returns whether somebody asked for everything to be
    /// tried now.
    pub(super) fn take_jobs(&mut self, reconcile: bool) -> Result<bool> {
        let progress = self.remarks.0.clone();
        let remark = |text: String| progress.remark(&text);
        if reconcile {
            self.relied_on.read_again();
            self.inbox.reconcile(&mut self.daemon, &remark)?;
        }
        self.inbox.take(&remark)?;
        self.has_taken = true;
        self.release_surplus()?;
        let nudged = self.inbox.take_nudge(&remark);
        if nudged {
            self.inbox.make_all_due();
        }
        Ok(nudged)
    }

    /// Limits what the jobs keep from garbage collection, in bytes of NARs.
    pub(super) fn limit_pinned(&mut self, bytes: Option<u64>) {
        self.max_pinned = bytes.map(Limit::new);
    }

    /// Removes the roots of the oldest jobs if the jobs keep more than the limit.
    fn release_surplus(&mut self) -> Result<()> {
        let Some(limit) = &mut self.max_pinned else { return Ok(()) };
        let released = limit.apply(&self.queue, &self.store, &self.inbox, &mut self.daemon)?;
        if let Some(Released { jobs, paths, bytes }) = released {
            self.remarks.0.remark(&format!(
                "the queued builds keep {} MiB from garbage collection, more than `max-pinned`: the {jobs} oldest builds stay queued, but their {paths} paths may be collected now",
                bytes >> 20
            ));
            self.summary.released += paths as u64;
            self.summary.write(self.queue.layout());
        }
        Ok(())
    }

    /// Chooses what the next push is for: with `recheck` the blocked paths, else at most `limit` jobs that are due.
    /// `None` when there is nothing to push. The jobs count as being pushed from now on.
    pub(super) fn choose(&mut self, limit: usize, recheck: bool) -> Option<Batch> {
        if recheck {
            let mut blocked = self.queue.parked().map(|(parked, _)| parked).unwrap_or_default();
            blocked.retain(|parked| parked.blocked_by.is_some());
            if !blocked.is_empty() {
                return Some(Batch { ids: Vec::new(), blocked });
            }
        }
        let at = now();
        let due = self.inbox.jobs().iter().filter(|(_, taken)| !taken.is_being_pushed && taken.due() <= at);
        let ids: Vec<_> = due.map(|(id, _)| id.clone()).take(limit).collect();
        self.inbox.set_being_pushed(&ids, true);
        (!ids.is_empty()).then_some(Batch { ids, blocked: Vec::new() })
    }

    /// Makes the request of a batch. Asks the daemon for outputs that the hook did not know; a job whose outputs cannot
    /// be found is put off and leaves the batch.
    ///
    /// # Errors
    /// The daemon cannot be reached, or the queue cannot be read or written. The batch is unchanged then.
    pub(super) fn request(&mut self, batch: &mut Batch) -> Result<Request> {
        let mut ids = batch.ids.clone();
        self.resolve_outputs(&mut ids)?;
        let mut request = Request { pins: true, ..Request::default() };
        let (at, mut keys, mut doubted) = (now(), BTreeSet::new(), BTreeSet::new());
        let mut add = |path: Option<StorePath>, origin, derivation: Option<StorePath>| {
            let built_here = origin != Origin::Retry;
            request.roots.extend(path.map(|path| Root { path: path.into(), built_here, derivation }));
        };
        for taken in ids.iter().filter_map(|id| self.inbox.jobs().get(id)) {
            let deriver = taken.job.deriver.as_ref().filter(|_| taken.job.origin == Origin::Hook);
            let deriver = deriver.and_then(|deriver| from_queued(&self.store, deriver));
            for path in taken.job.paths.iter().filter(|path| taken.is_due(path, at)) {
                let path = from_queued(&self.store, path);
                // A recheck has found damage, or a person asks again.
                doubted.extend(path.clone().filter(|_| taken.job.origin == Origin::Retry));
                add(path, taken.job.origin, deriver.clone());
            }
            keys.extend(taken.job.trusted_keys.iter().cloned());
        }
        for parked in &batch.blocked {
            add(from_queued(&self.store, &parked.path), parked.origin, None);
            keys.extend(parked.trusted_keys.iter().cloned());
        }
        request.extra_keys =
            keys.iter().filter_map(|key| public_keys([key.as_str()]).ok()).flatten().collect();
        request.parked = self.parked_for_their_own_sake()?;
        // The bucket may have a narinfo of a parked path which only a reader finds unusable.
        doubted.extend(request.parked.iter().cloned());
        request.doubted = doubted;
        // A path that somebody queued again is tried, although it is parked.
        request.parked.retain(|path| !request.roots.iter().any(|root| *root.path == *path));
        batch.ids = ids;
        Ok(request)
    }

    /// The parked paths that are not merely blocked.
    fn parked_for_their_own_sake(&self) -> Result<BTreeSet<StorePath>> {
        let parked = self.queue.parked().map_err(in_queue)?.0;
        let own = parked.iter().filter(|parked| parked.blocked_by.is_none());
        Ok(own.filter_map(|parked| from_queued(&self.store, &parked.path)).collect())
    }

    /// Finds the outputs of the jobs that name only a derivation. A job whose outputs cannot be found is put off and
    /// leaves `ids`.
    fn resolve_outputs(&mut self, ids: &mut Vec<String>) -> Result<()> {
        for id in std::mem::take(ids) {
            if self.inbox.jobs().get(&id).is_some_and(|taken| taken.job.paths.is_empty()) {
                let daemon = self.daemon.get()?;
                if let Err(error) = self.inbox.resolve_outputs(&id, daemon) {
                    // An empty store says nothing about this job.
                    self.daemon.get()?.check_not_empty()?;
                    self.remarks.0.remark(&error.to_string());
                    self.put_off(&id, &error)?;
                    continue;
                }
            }
            ids.push(id);
        }
        Ok(())
    }

    /// Applies the report of a push that was for the jobs `ids` and asked for the paths `asked`. Returns whether a
    /// parked path has become available.
    ///
    /// # Errors
    /// The queue cannot be read or written. Nothing is lost; the paths are pushed again.
    pub(super) fn settle(
        &mut self,
        ids: &[String],
        asked: &BTreeSet<StorePath>,
        report: &Report,
    ) -> Result<bool> {
        self.release(ids);
        self.summary.note_report(report, now());
        self.relied_on.note(self.queue.layout(), report);
        let settled = self.with_target(|target| target.settle(ids, asked, report, Clock::system()));
        self.summary.write(self.queue.layout());
        settled
    }

    /// Draws the consequences of a push for the jobs `ids` that failed as a whole with an error that one job can cause.
    /// If the daemon answers, a single job is put off.
    ///
    /// # Errors
    /// The queue cannot be written.
    pub(super) fn settle_failure(&mut self, ids: &[String], error: &Error) -> Result<Blame> {
        self.release(ids);
        if !self.store_answers() {
            return Ok(Blame::Everything);
        }
        if ids.len() > 1 {
            return Ok(Blame::OneOfThese);
        }
        self.remarks.0.remark(&error.to_string());
        ids.iter().try_for_each(|id| self.put_off(id, error))?;
        Ok(Blame::Settled)
    }

    /// Puts a job off whose push has failed because of this job.
    fn put_off(&mut self, id: &str, error: &Error) -> Result<()> {
        self.inbox.set_being_pushed(&[id.to_owned()], false);
        self.with_target(|target| target.put_off(id, error, Clock::system()))
    }

    /// Takes note that no push works on these jobs any more.
    pub(super) fn release(&mut self, ids: &[String]) {
        self.inbox.set_being_pushed(ids, false);
    }

    fn with_target<T>(&mut self, apply: impl FnOnce(&mut Target<'_>) -> T) -> T {
        let progress = &self.remarks.0;
        apply(&mut Target {
            queue: &self.queue,
            store: &self.store,
            inbox: &mut self.inbox,
            summary: &mut self.summary,
            daemon: &mut self.daemon,
            remark: &|text| progress.remark(&text),
        })
    }

    /// Whether the daemon accepts connections, and its store has paths.
    fn store_answers(&mut self) -> bool {
        self.daemon.close();
        self.daemon.get().and_then(Daemon::check_not_empty).is_ok()
    }

    /// Looks for builds that have failed since the last look.
    pub(super) fn failed_builds(&mut self) -> Result<Found> {
        failed_builds::find(self.queue.layout(), &self.store, &mut self.daemon)
    }

    /// Notes the time up to which logs have been looked at, in seconds since 1970.
    pub(super) fn note_look(&mut self, until: u64) {
        failed_builds::note(self.queue.layout(), until);
    }

    /// Records the error that keeps everything from being pushed.
    pub(super) fn note_error(&mut self, error: String) {
        // People read the file on a terminal, too.
        self.summary.last_error = Some(printable(&error).into_owned());
        self.summary.write(self.queue.layout());
    }

    /// Lists the paths of the coming pushes as those of the bucket at `address`.
    pub(super) fn note_bucket(&mut self, address: String) {
        self.relied_on = ReliedOn::of(address);
    }

    /// Records the id of the agent's session with the bucket. Returns the id of the session before, which is over: the
    /// queue has one agent.
    pub(super) fn note_session(&mut self, id: &str) -> Option<String> {
        records::note_session(self.queue.layout(), id)
    }
}
