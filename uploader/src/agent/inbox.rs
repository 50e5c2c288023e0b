//! The jobs that the agent has taken: from `incoming/`, from `work/`, or restored from their roots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_hook::queue::{Attempts, Author, Entry, Job, Origin, Place, Queue, gcroot};
use larder_hook::store_path::StorePath as QueuedPath;
use larder_hook::time::now;

use super::daemon_connection::DaemonConnection;
use super::path_conversion::{from_queued, to_queued};
use crate::base::error::{Area, Error, Result, Retry};
use crate::base::queue_error::in_queue;
use crate::store::{Daemon, StoreLocation};

/// A file of this name in `incoming/` asks for every path to be tried now. The leading dot tells it from a job.
pub(super) const NUDGE: &str = ".nudge";
/// Roots without a job become a job of their own after this time, in seconds: until then, a hook may still be about to
/// write the job's file.
const ORPHAN_AGE: u64 = 3600;
/// The longest wait for the next attempt that is believed, in seconds. A later time comes from a clock that was set
/// back since.
const LONGEST_WAIT: u64 = 2 * 3600;

/// A job that the agent has taken.
#[derive(Clone, Debug)]
pub(super) struct TakenJob {
    /// The job, as its file in `work/` has it.
    pub(super) job: Job,
    /// Whether a push works on it.
    pub(super) is_being_pushed: bool,
}

impl TakenJob {
    /// When its first path is due, in seconds since 1970; 0 when no path waits.
    pub(super) fn due(&self) -> u64 {
        let at = now();
        let next = |attempts: &Attempts| if waits(attempts, at) { attempts.next } else { 0 };
        self.job.attempts.iter().map(next).min().unwrap_or(0)
    }

    /// Whether the job's `path` is due at the time `at`, in seconds since 1970.
    pub(super) fn is_due(&self, path: &QueuedPath, at: u64) -> bool {
        !self.job.attempts.iter().any(|attempts| attempts.path == *path && waits(attempts, at))
    }
}

/// Whether a path waits for its next attempt at the time `at`.
fn waits(attempts: &Attempts, at: u64) -> bool {
    attempts.next > at && attempts.next <= at + LONGEST_WAIT
}

/// The jobs that the agent has taken, by id. Everything here blocks.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: Arc<Queue>,
    store: Arc<StoreLocation>,
    jobs: BTreeMap<String, TakenJob>,
    /// The remarks about entries that cannot be moved, read or removed. Each is made once.
    told: BTreeSet<String>,
}

impl Inbox {
    /// Opens the inbox with the jobs that an earlier agent has left in `work/`.
    pub(super) fn open(
        queue: Arc<Queue>,
        store: Arc<StoreLocation>,
        remark: &dyn Fn(String),
    ) -> Result<Self> {
        let mut inbox = Self { queue, store, jobs: BTreeMap::new(), told: BTreeSet::new() };
        inbox.load_new(remark)?;
        Ok(inbox)
    }

    /// All jobs, by id.
    pub(super) fn jobs(&self) -> &BTreeMap<String, TakenJob> {
        &self.jobs
    }

    /// Marks jobs as being pushed, or not.
    pub(super) fn set_being_pushed(&mut self, ids: &[String], is_being_pushed: bool) {
        for id in ids {
            if let Some(taken) = self.jobs.get_mut(id) {
                taken.is_being_pushed = is_being_pushed;
            }
        }
    }

    /// Makes every path due now. The files keep their times.
    pub(super) fn make_all_due(&mut self) {
        let attempts = self.jobs.values_mut().flat_map(|taken| &mut taken.job.attempts);
        attempts.for_each(|attempts| attempts.next = 0);
    }

    /// Takes new jobs out of `incoming/`. An entry that cannot be moved or read delays no other entry.
    pub(super) fn take(&mut self, remark: &dyn Fn(String)) -> Result<()> {
        for id in self.queue.list(Place::Incoming).map_err(in_queue)? {
            match self.queue.take(&id) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    self.tell_once(&error, remark);
                    continue;
                }
            }
            // A file that cannot be read now is read again later.
            if let Err(error) = self.load(&id, remark) {
                self.tell_once(&error, remark);
            }
            // Failed attempts from before `larder retry` do not count.
            if let Some(taken) = self.jobs.get_mut(&id) {
                taken.job.attempts.clear();
            }
        }
        Ok(())
    }

    /// Removes the file by which somebody asks for everything to be tried now. Returns whether the file was there.
    pub(super) fn take_nudge(&mut self, remark: &dyn Fn(String)) -> bool {
        let removed = self.queue.layout().remove(Place::Incoming, NUDGE);
        removed.inspect_err(|error| self.tell_once(error, remark)).unwrap_or(false)
    }

    /// Makes a remark about an entry that cannot be moved, read or removed, unless that remark has been made.
    fn tell_once(&mut self, error: &dyn std::fmt::Display, remark: &dyn Fn(String)) {
        let text = format!("{error}; larder goes on with the other entries");
        if self.told.insert(text.clone()) {
            remark(text);
        }
    }

    /// Reads the jobs in `work/` that are not loaded yet.
    fn load_new(&mut self, remark: &dyn Fn(String)) -> Result<()> {
        for id in self.queue.list(Place::Work).map_err(in_queue)? {
            if !self.jobs.contains_key(&id)
                && let Err(error) = self.load(&id, remark)
            {
                self.tell_once(&error, remark);
            }
        }
        Ok(())
    }

    /// Reads the file of a job in `work/`.
    fn load(&mut self, id: &str, remark: &dyn Fn(String)) -> Result<()> {
        let queue = self.queue.clone();
        match queue.read(Place::Work, id) {
            Ok(Entry::Job(job, Author::Trusted)) => self.add(id, job),
            Ok(Entry::Job(mut job, Author::Foreign)) => {
                // Any user may ask for a push; only root may say that a path was built here.
                remark(format!(
                    "job {id} was not written by root: larder trusts its paths only as far as the store does"
                ));
                job.origin = Origin::Retry;
                job.trusted_keys.clear();
                queue.rewrite(id, &job).map_err(in_queue)?;
                self.add(id, job);
            }
            Ok(Entry::Bad(bad)) if bad.is_to_be_left_alone() => {
                remark(format!("job {id} is left alone: {bad}"))
            }
            Ok(Entry::Bad(bad)) => self.restore(id, &bad.to_string(), remark)?,
            Ok(Entry::Gone) => {}
            Err(error) if error.is_no_file() => self.restore(id, &error.to_string(), remark)?,
            // The file may hold a sound job: it is read again later.
            Err(error) => remark(format!("job {id} cannot be read now: {error}")),
        }
        Ok(())
    }

    fn add(&mut self, id: &str, job: Job) {
        self.jobs.insert(id.to_owned(), TakenJob { job, is_being_pushed: false });
    }

    /// Replaces a damaged job by a job for the paths that its roots name. Sets the damaged file aside.
    fn restore(&mut self, id: &str, reason: &str, remark: &dyn Fn(String)) -> Result<()> {
        let rooted = self.queue.rooted().map_err(in_queue)?.remove(id).unwrap_or_default();
        self.queue.set_aside(id).map_err(in_queue)?;
        let Some(job) = from_roots(rooted) else {
            remark(format!(
                "job {id} is unusable and has no roots: {reason}; `larder catch-up` finds the paths that were built"
            ));
            return Ok(());
        };
        remark(format!("job {id} is unusable, larder restores its paths from its roots: {reason}"));
        self.queue.rewrite(id, &job).map_err(in_queue)?;
        self.add(id, job);
        Ok(())
    }

    /// Repairs the queue after crashes: loads jobs in `work/` that could not be read, makes jobs of roots whose hook was
    /// killed before it wrote the job, removes roots of paths that are no longer parked, removes old drafts, and
    /// registers the roots of parked paths with the daemon.
    pub(super) fn reconcile(&mut self, daemon: &mut DaemonConnection, remark: &dyn Fn(String)) -> Result<()> {
        self.load_new(remark)?;
        self.adopt_orphaned_roots(remark)?;
        let swept = [self.queue.sweep_parked_roots(), self.queue.layout().sweep_drafts(Place::State)];
        swept.iter().filter_map(|swept| swept.as_ref().err()).for_each(|error| self.tell_once(error, remark));
        // The daemon may have been away when the paths were parked.
        let parked = self.queue.parked().map_err(in_queue)?.0;
        if let (false, Ok(daemon)) = (parked.is_empty(), daemon.get()) {
            let roots = self.queue.layout().path().join(Place::Roots.name());
            parked.iter().try_for_each(|parked| daemon.add_indirect_root(&roots.join(parked.link_name())))?;
        }
        Ok(())
    }

    /// Makes a job of the roots of each job that has roots and no file.
    fn adopt_orphaned_roots(&mut self, remark: &dyn Fn(String)) -> Result<()> {
        // `incoming/` before `work/`: a job that is taken in the meantime is in one of the two lists.
        let mut known: BTreeSet<_> =
            self.queue.list(Place::Incoming).map_err(in_queue)?.into_iter().collect();
        known.extend(self.queue.list(Place::Work).map_err(in_queue)?);
        for (id, rooted) in self.queue.rooted().map_err(in_queue)? {
            let since = id.split('-').next().and_then(|since| since.parse::<u64>().ok());
            // A time that is far ahead comes from a clock that was set back since.
            let is_old = since.is_some_and(|since| now().abs_diff(since) > ORPHAN_AGE);
            if let (true, false, Some(job)) = (is_old, known.contains(&id), from_roots(rooted)) {
                match self.queue.rewrite(&id, &job) {
                    Ok(()) => self.add(&id, job),
                    Err(error) => self.tell_once(&error, remark),
                }
            }
        }
        Ok(())
    }

    /// Asks the daemon for the outputs of a job that names only its derivation, and writes them into the job.
    ///
    /// # Errors
    /// The error concerns this job alone: the caller has connected to the daemon before.
    pub(super) fn resolve_outputs(&mut self, id: &str, daemon: &mut Daemon) -> Result<()> {
        let Some(taken) = self.jobs.get_mut(id).filter(|taken| taken.job.paths.is_empty()) else {
            return Ok(());
        };
        let unknown = |derivation: &str| {
            Error::new(Area::Store, Retry::Unknown, format!("cannot find the outputs of {derivation}"))
        };
        let deriver = taken.job.deriver.clone().ok_or_else(|| unknown("a build without a derivation"))?;
        let drv = from_queued(&self.store, &deriver).ok_or_else(|| unknown(deriver.as_str()))?;
        let outputs =
            daemon.derivation_outputs(&drv).map_err(|error| unknown(deriver.as_str()).because(error))?;
        let paths: Vec<_> =
            outputs.into_values().flatten().filter_map(|path| to_queued(&self.store, &path)).collect();
        if paths.is_empty() {
            return Err(unknown(deriver.as_str()).because("no output is in the store"));
        }
        // Root number 0 keeps the derivation. The outputs' roots follow it, so nothing is unprotected at any time.
        let first = taken.job.roots;
        for (n, path) in paths.iter().enumerate() {
            gcroot::link(self.queue.layout(), &gcroot::link_name(id, first + n), path).map_err(in_queue)?;
        }
        for link in self.queue.links(id, first + paths.len()).skip(first) {
            daemon.add_indirect_root(&link)?;
        }
        gcroot::sync(self.queue.layout(), None).map_err(in_queue)?;
        let mut job = taken.job.clone();
        job.roots = first + paths.len();
        job.paths = paths;
        job.attempts.clear();
        self.queue.rewrite(id, &job).map_err(in_queue)?;
        taken.job = job;
        Ok(())
    }

    /// Removes a job that is done, with its roots.
    pub(super) fn remove(&mut self, id: &str) -> Result<()> {
        let roots = self.jobs.get(id).map_or(0, |taken| taken.job.roots);
        self.queue.remove(id, roots).map_err(in_queue)?;
        self.jobs.remove(id);
        Ok(())
    }

    /// Gives a job these paths and attempts, and rewrites its file.
    pub(super) fn rewrite(
        &mut self,
        id: &str,
        paths: Vec<QueuedPath>,
        attempts: Vec<Attempts>,
    ) -> Result<()> {
        let Some(taken) = self.jobs.get_mut(id) else { return Ok(()) };
        (taken.job.paths, taken.job.attempts) = (paths, attempts);
        self.queue.rewrite(id, &taken.job).map_err(in_queue)
    }
}

/// Makes a job for the paths that a job's roots name; `None` without roots. A derivation among them stands for outputs
/// that the hook did not know.
fn from_roots(rooted: Vec<QueuedPath>) -> Option<Job> {
    let roots = rooted.len();
    let (mut derivers, paths): (Vec<_>, Vec<_>) =
        rooted.into_iter().partition(|path| path.name().ends_with(".drv"));
    if roots == 0 {
        return None;
    }
    Some(Job {
        origin: Origin::Retry,
        created: now(),
        deriver: derivers.pop(),
        trusted_keys: Vec::new(),
        paths,
        attempts: Vec::new(),
        roots,
    })
}
