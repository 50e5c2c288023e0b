//! The status of a queue as a plain value, for `larder status`.

use larder_hook::Failure;
use larder_hook::queue::{Attempts, Entry, Parked, Place, Queue};
use larder_hook::time::now;

use super::path_conversion::from_queued;
use super::records::Summary;
use crate::base::error::Result;
use crate::base::queue_error::in_queue;
use crate::store::{Daemon, StoreLocation};

/// The status of a queue.
#[derive(Debug)]
pub(crate) struct QueueStatus {
    /// When the status was taken, in seconds since 1970.
    pub(crate) at: u64,
    /// Whether an agent works on the queue.
    pub(crate) has_agent: bool,
    /// The queued jobs.
    pub(crate) jobs: usize,
    /// The paths that these jobs name.
    pub(crate) paths: usize,
    /// The age of the oldest job, in seconds.
    pub(crate) oldest_age: Option<u64>,
    /// The paths with failed attempts.
    pub(crate) retries: Vec<Attempts>,
    /// The jobs that cannot be read, each with the reason.
    pub(crate) unreadable: Vec<String>,
    /// The parked paths.
    pub(crate) parked: Vec<Parked>,
    /// The files in `parked/` that cannot be read.
    pub(crate) unreadable_parked: Vec<Failure>,
    /// How many paths the roots keep from garbage collection.
    pub(crate) rooted_paths: usize,
    /// The size of their NARs in bytes; `None` when the daemon does not answer.
    pub(crate) rooted_bytes: Option<u64>,
    /// The agent's records.
    pub(crate) summary: Summary,
}

impl QueueStatus {
    /// Reads the queue, and asks the daemon for the size of the rooted paths. Blocks.
    pub(crate) fn gather(queue: &Queue, store: &StoreLocation) -> Result<Self> {
        let (parked, unreadable_parked) = queue.parked().map_err(in_queue)?;
        let mut status = Self {
            at: now(),
            has_agent: false,
            jobs: 0,
            paths: 0,
            oldest_age: None,
            retries: Vec::new(),
            unreadable: Vec::new(),
            parked,
            unreadable_parked,
            rooted_paths: 0,
            rooted_bytes: None,
            summary: Summary::read(queue.layout()),
        };
        status.read_jobs(queue)?;
        status.has_agent = queue.has_agent().map_err(in_queue)?;
        (status.rooted_paths, status.rooted_bytes) = rooted(queue, store)?;
        Ok(status)
    }

    fn read_jobs(&mut self, queue: &Queue) -> Result<()> {
        let mut oldest: Option<u64> = None;
        for place in [Place::Incoming, Place::Work] {
            for id in queue.list(place).map_err(in_queue)? {
                match queue.read(place, &id) {
                    Ok(Entry::Job(job, _)) => {
                        self.jobs += 1;
                        self.paths += job.paths.len();
                        oldest = Some(oldest.map_or(job.created, |oldest| oldest.min(job.created)));
                        self.retries.extend(job.attempts);
                    }
                    Ok(Entry::Gone) => {}
                    Ok(Entry::Bad(bad)) => self.unreadable.push(format!("{id} ({bad})")),
                    Err(error) => self.unreadable.push(error.to_string()),
                }
            }
        }
        self.oldest_age = oldest.map(|oldest| self.at.saturating_sub(oldest));
        Ok(())
    }
}

/// How many paths the roots keep, and the size of their NARs.
fn rooted(queue: &Queue, store: &StoreLocation) -> Result<(usize, Option<u64>)> {
    let rooted = queue.rooted().map_err(in_queue)?;
    let mut paths: Vec<_> =
        rooted.into_values().flatten().filter_map(|path| from_queued(store, &path)).collect();
    paths.sort();
    paths.dedup();
    if paths.is_empty() {
        return Ok((0, Some(0)));
    }
    let infos = Daemon::connect(store).and_then(|mut daemon| daemon.path_infos(&paths));
    Ok((paths.len(), infos.ok().map(|infos| infos.into_iter().flatten().map(|info| info.nar_size).sum())))
}
