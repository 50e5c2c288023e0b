//! The jobs that an agent holds: taken from `incoming/`, found in `work/`, mended from roots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_hook::job::{BadJob, Job, Origin};
use larder_hook::layout::Place;
use larder_hook::queue::{Author, Entry, Queue, now};
use larder_hook::store_path::StorePath as QueuedPath;
use larder_hook::{Failure, gcroot};

use crate::error::{Area, Error, Result};
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
        let due = self.job.attempts.iter().map(|attempts| attempts.next).min().unwrap_or(0);
        if due > now() + LONGEST_WAIT { 0 } else { due }
    }
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
                self.load(&id, remark)?;
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
            Ok(Entry::Bad(BadJob::Newer(version))) => {
                remark(format!(
                    "job {id} is left alone: it has format {version}, which a newer larder wrote"
                ));
            }
            Ok(Entry::Bad(BadJob::Damaged(reason))) => self.mend(id, &reason, remark)?,
            Ok(Entry::Gone) => {}
            // A link or special file that somebody planted.
            Err(error) => self.mend(id, &error.to_string(), remark)?,
        }
        Ok(())
    }

    fn hold(&mut self, id: &str, job: Job) {
        self.jobs.insert(id.to_owned(), Held { job, running: false });
    }

    /// Replaces a damaged job by one with the paths that its roots still name.
    fn mend(&mut self, id: &str, reason: &str, remark: &dyn Fn(String)) -> Result<()> {
        let paths = self.queue.rooted().map_err(in_queue)?.remove(id).unwrap_or_default();
        if paths.is_empty() {
            remark(format!(
                "job {id} is unusable and names nothing any more: {reason}; `larder catch-up` finds what was built"
            ));
            return self.queue.remove(id, 0).map_err(in_queue);
        }
        remark(format!("job {id} is unusable, its {} paths are taken from its roots: {reason}", paths.len()));
        self.queue.layout().unlink(Place::Work, id).map_err(in_queue)?;
        let job = from_roots(paths);
        self.queue.rewrite(id, &job).map_err(in_queue)?;
        self.hold(id, job);
        Ok(())
    }

    /// Queues what links in `roots/` name whose job never came: a hook that was killed half-way.
    pub fn adopt_orphans(&mut self) -> Result<()> {
        let incoming: BTreeSet<_> = self.queue.list(Place::Incoming).map_err(in_queue)?.into_iter().collect();
        for (id, paths) in self.queue.rooted().map_err(in_queue)? {
            let age = id
                .split('-')
                .next()
                .and_then(|since| since.parse().ok())
                .map(|since| now().saturating_sub(since));
            let orphan = age.is_some_and(|age: u64| age > ORPHAN_AGE);
            if orphan && !self.jobs.contains_key(&id) && !incoming.contains(&id) {
                let job = from_roots(paths);
                self.queue.rewrite(&id, &job).map_err(in_queue)?;
                self.hold(&id, job);
            }
        }
        Ok(())
    }

    /// Puts what was only blocked back to work: what blocked it may have changed.
    pub fn unblock(&mut self) -> Result<()> {
        for parked in self.queue.parked().map_err(in_queue)?.0 {
            if parked.blocked_by.is_some() {
                let job = parked.clone().into_job(now());
                self.queue.enqueue(&job, Place::State, None).map_err(in_queue)?;
                self.queue.unpark(&parked).map_err(in_queue)?;
            }
        }
        Ok(())
    }

    /// Finds the outputs of a job whose hook could not know them, by asking the daemon. Blocks.
    pub fn resolve(&mut self, id: &str) -> Result<()> {
        let Some(held) = self.jobs.get_mut(id).filter(|held| held.job.paths.is_empty()) else {
            return Ok(());
        };
        let Some(deriver) = held.job.deriver.as_ref().and_then(|path| from_queued(&self.store, path)) else {
            return Ok(());
        };
        let mut daemon = Daemon::connect(&self.store)?;
        let outputs = daemon.derivation_outputs(&deriver)?;
        for path in outputs.into_values().flatten() {
            held.job.paths.extend(to_queued(&self.store, &path));
        }
        // The derivation's own root, number 0, is put in the first output's place.
        let layout = self.queue.layout();
        if !held.job.paths.is_empty() {
            layout.unlink(Place::Roots, &gcroot::link_name(id, 0)).map_err(in_queue)?;
        }
        for (n, path) in held.job.paths.iter().enumerate() {
            let name = gcroot::link_name(id, n);
            gcroot::link(layout, &name, path).map_err(in_queue)?;
            daemon.add_indirect_root(&layout.path().join(Place::Roots.name()).join(&name))?;
        }
        self.queue.rewrite(id, &held.job).map_err(in_queue)
    }

    /// Removes a job that is done.
    pub fn acknowledge(&mut self, id: &str) -> Result<()> {
        let count = self.jobs.get(id).map_or(0, |held| held.job.paths.len());
        self.queue.remove(id, count).map_err(in_queue)?;
        self.jobs.remove(id);
        Ok(())
    }

    /// Writes a changed job down and frees it for another attempt.
    pub fn keep(&mut self, id: &str) -> Result<()> {
        let Some(held) = self.jobs.get_mut(id) else { return Ok(()) };
        held.running = false;
        self.queue.rewrite(id, &held.job).map_err(in_queue)
    }
}

fn from_roots(paths: Vec<QueuedPath>) -> Job {
    Job {
        origin: Origin::Retry,
        created: now(),
        deriver: None,
        trusted_keys: Vec::new(),
        paths,
        attempts: Vec::new(),
    }
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
