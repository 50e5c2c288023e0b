//! The jobs that an agent holds: taken from `incoming/`, found in `work/`, mended from roots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_hook::Failure;
use larder_hook::queue::{Attempts, Author, Entry, Job, Origin, Place, Queue, gcroot};
use larder_hook::store_path::StorePath as QueuedPath;
use larder_hook::time::now;

use crate::base::error::{Area, Error, Result, Retry};
use crate::store::{Daemon, StoreLocation, StorePath};

/// Links whose job never came are given this long, in seconds.
const ORPHAN_AGE: u64 = 3600;
/// A time to wait for that lies further ahead comes of a clock that was set back.
const LONGEST_WAIT: u64 = 2 * 3600;

/// A job that the agent holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// The job.
    pub job: Job,
    /// Whether a push works on it.
    pub running: bool,
}

impl Held {
    /// When it is to be tried, in seconds since 1970.
    pub fn due(&self) -> u64 {
        let at = now();
        let next = |attempts: &Attempts| if waits(attempts, at) { attempts.next } else { 0 };
        self.job.attempts.iter().map(next).min().unwrap_or(0)
    }

    /// Whether one of its paths is to be tried at that time.
    pub(super) fn is_due(&self, path: &QueuedPath, at: u64) -> bool {
        !self.job.attempts.iter().any(|one| one.path == *path && waits(one, at))
    }
}

/// Whether a path still waits. A time that lies too far ahead comes of a clock that was set back.
fn waits(attempts: &Attempts, at: u64) -> bool {
    attempts.next > at && attempts.next <= at + LONGEST_WAIT
}

/// The jobs that an agent holds, by id.
#[derive(Debug)]
pub struct Inbox {
    queue: Arc<Queue>,
    store: Arc<StoreLocation>,
    jobs: BTreeMap<String, Held>,
}

impl Inbox {
    /// An inbox with what an earlier agent had taken.
    pub fn open(queue: Arc<Queue>, store: Arc<StoreLocation>, remark: &dyn Fn(String)) -> Result<Self> {
        let mut inbox = Self { queue, store, jobs: BTreeMap::new() };
        for id in inbox.queue.list(Place::Work).map_err(in_queue)? {
            inbox.load(&id, remark)?;
        }
        Ok(inbox)
    }

    /// The jobs.
    pub fn jobs(&self) -> &BTreeMap<String, Held> {
        &self.jobs
    }

    /// One of them.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Held> {
        self.jobs.get_mut(id)
    }

    /// Takes what has arrived; how many jobs that were.
    pub fn take(&mut self, remark: &dyn Fn(String)) -> Result<usize> {
        let mut taken = 0;
        for id in self.queue.list(Place::Incoming).map_err(in_queue)? {
            if self.queue.take(&id).map_err(in_queue)? {
                // One that cannot be read now is looked at again, and holds no other up.
                if let Err(error) = self.load(&id, remark) {
                    remark(error.to_string());
                }
                // What somebody queues, again or anew, begins from nothing.
                if let Some(held) = self.jobs.get_mut(&id) {
                    held.job.attempts.clear();
                }
                taken += 1;
            }
        }
        Ok(taken)
    }

    fn load(&mut self, id: &str, remark: &dyn Fn(String)) -> Result<()> {
        let queue = self.queue.clone();
        match queue.read(Place::Work, id) {
            Ok(Entry::Job(job, Author::Trusted)) => self.hold(id, job),
            Ok(Entry::Job(mut job, Author::Foreign)) => {
                // Anybody's word may bring a path here; that it was built here needs the word of root.
                remark(format!(
                    "job {id} was not written by root: its paths are trusted only as far as the store does"
                ));
                job.origin = Origin::Retry;
                job.trusted_keys.clear();
                queue.rewrite(id, &job).map_err(in_queue)?;
                self.hold(id, job);
            }
            Ok(Entry::Bad(bad)) if bad.is_to_be_left_alone() => {
                remark(format!("job {id} is left alone: {bad}"))
            }
            Ok(Entry::Bad(bad)) => self.mend(id, &bad.to_string(), remark)?,
            Ok(Entry::Gone) => {}
            Err(error) if error.is_no_file() => self.mend(id, &error.to_string(), remark)?,
            // Nothing is known of it; it is looked at again.
            Err(error) => remark(format!("job {id} cannot be read now: {error}")),
        }
        Ok(())
    }

    fn hold(&mut self, id: &str, job: Job) {
        self.jobs.insert(id.to_owned(), Held { job, running: false });
    }

    /// Replaces a damaged job by one with the paths that its roots still name. The file itself is set aside.
    fn mend(&mut self, id: &str, reason: &str, remark: &dyn Fn(String)) -> Result<()> {
        let rooted = self.queue.rooted().map_err(in_queue)?.remove(id).unwrap_or_default();
        self.queue.set_aside(id).map_err(in_queue)?;
        let Some(job) = from_roots(rooted) else {
            remark(format!(
                "job {id} is unusable and names nothing any more: {reason}; `larder catch-up` finds what was built"
            ));
            return Ok(());
        };
        remark(format!("job {id} is unusable, what it was for is taken from its roots: {reason}"));
        self.queue.rewrite(id, &job).map_err(in_queue)?;
        self.hold(id, job);
        Ok(())
    }

    /// Looks after what crashes leave behind: jobs in `work/` that could not be read, links in `roots/` whose job
    /// never came because a hook was killed half-way, roots of paths that are no longer parked.
    pub fn reconcile(&mut self, remark: &dyn Fn(String)) -> Result<()> {
        let work = self.queue.list(Place::Work).map_err(in_queue)?;
        for id in &work {
            if !self.jobs.contains_key(id) {
                self.load(id, remark)?;
            }
        }
        // In this order a job that is being taken is in one of the two.
        let mut known: BTreeSet<_> =
            self.queue.list(Place::Incoming).map_err(in_queue)?.into_iter().collect();
        known.extend(self.queue.list(Place::Work).map_err(in_queue)?);
        for (id, rooted) in self.queue.rooted().map_err(in_queue)? {
            let since = id.split('-').next().and_then(|since| since.parse::<u64>().ok());
            // From a time that is far ahead they come of a clock that was set back.
            let old = since.is_some_and(|since| now().abs_diff(since) > ORPHAN_AGE);
            if let (true, false, Some(job)) = (old, known.contains(&id), from_roots(rooted)) {
                self.queue.rewrite(&id, &job).map_err(in_queue)?;
                self.hold(&id, job);
            }
        }
        self.queue.sweep_parked_roots().map_err(in_queue)?;
        self.queue.layout().sweep_drafts(Place::State).map_err(in_queue)?;
        // The daemon may have been away when they were parked.
        let parked = self.queue.parked().map_err(in_queue)?.0;
        if let (false, Ok(mut daemon)) = (parked.is_empty(), Daemon::connect(&self.store)) {
            let roots = self.queue.layout().path().join(Place::Roots.name());
            parked.iter().try_for_each(|parked| daemon.add_indirect_root(&roots.join(parked.link_name())))?;
        }
        Ok(())
    }

    /// Finds the outputs of a job whose hook could not know them, by asking the daemon. Blocks. The error is one of
    /// this job alone; whether the daemon can be reached has been found out before.
    pub fn resolve(&mut self, id: &str, daemon: &mut Daemon) -> Result<()> {
        let Some(held) = self.jobs.get_mut(id).filter(|held| held.job.paths.is_empty()) else {
            return Ok(());
        };
        let unknown = |what: &str| {
            Error::new(Area::Store, Retry::Unknown, format!("the outputs of {what} are unknown"))
        };
        let deriver = held.job.deriver.clone().ok_or_else(|| unknown("a build without a derivation"))?;
        let drv = from_queued(&self.store, &deriver).ok_or_else(|| unknown(deriver.as_str()))?;
        let outputs =
            daemon.derivation_outputs(&drv).map_err(|error| unknown(deriver.as_str()).because(error))?;
        let paths: Vec<_> =
            outputs.into_values().flatten().filter_map(|path| to_queued(&self.store, &path)).collect();
        if paths.is_empty() {
            return Err(unknown(deriver.as_str()).because("the store has none of them"));
        }
        // Behind the root of the derivation, which is number 0: so nothing is unprotected at any time.
        let first = held.job.roots;
        for (n, path) in paths.iter().enumerate() {
            gcroot::link(self.queue.layout(), &gcroot::link_name(id, first + n), path).map_err(in_queue)?;
        }
        for link in self.queue.links(id, first + paths.len()).skip(first) {
            daemon.add_indirect_root(&link)?;
        }
        let mut job = held.job.clone();
        job.roots = first + paths.len();
        job.paths = paths;
        job.attempts.clear();
        self.queue.rewrite(id, &job).map_err(in_queue)?;
        held.job = job;
        Ok(())
    }

    /// Removes a job that is done.
    pub fn acknowledge(&mut self, id: &str) -> Result<()> {
        let roots = self.jobs.get(id).map_or(0, |held| held.job.roots);
        self.queue.remove(id, roots).map_err(in_queue)?;
        self.jobs.remove(id);
        Ok(())
    }

    /// Leaves a job with these paths and attempts, and writes that down.
    pub fn keep(&mut self, id: &str, paths: Vec<QueuedPath>, attempts: Vec<Attempts>) -> Result<()> {
        let Some(held) = self.jobs.get_mut(id) else { return Ok(()) };
        (held.job.paths, held.job.attempts) = (paths, attempts);
        self.queue.rewrite(id, &held.job).map_err(in_queue)
    }
}

/// A job for what a job's links name; derivations stand for outputs that were not known when the links were made.
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

/// An error of the queue's directory as one of the uploader.
pub(crate) fn in_queue(failure: Failure) -> Error {
    let hint = match failure.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no queue yet: the hook makes it at the first build, or `larder queue create`"
        }
        std::io::ErrorKind::PermissionDenied => "run as root or as the agent's user",
        std::io::ErrorKind::StorageFull => "the disk is full",
        _ => return Error::transient(Area::Queue, failure.to_string()),
    };
    Error::transient(Area::Queue, failure.to_string()).hint(hint)
}

/// A path of the queue as one of the store.
pub(crate) fn from_queued(store: &StoreLocation, path: &QueuedPath) -> Option<StorePath> {
    store.store_dir.parse_path(path.as_str().as_bytes()).ok()
}

/// A path of the store as one of the queue.
pub(crate) fn to_queued(store: &StoreLocation, path: &StorePath) -> Option<QueuedPath> {
    QueuedPath::parse(store.store_dir.as_str(), &store.store_dir.render_path(path)).ok()
}
