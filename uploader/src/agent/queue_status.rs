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
        // A path moves from a job to `parked/` or to the summary. The reads have the same order, so a path that moves
        // during the reads can be counted twice, but is never missing.
        let jobs = Jobs::read(queue)?;
        let (parked, unreadable_parked) = queue.parked().map_err(in_queue)?;
        let summary = Summary::read(queue.layout());
        let has_agent = queue.has_agent().map_err(in_queue)?;
        let (rooted_paths, rooted_bytes) = rooted(queue, store)?;
        let at = now();
        Ok(Self {
            at,
            has_agent,
            jobs: jobs.count,
            paths: jobs.paths,
            oldest_age: jobs.oldest.map(|oldest| at.saturating_sub(oldest)),
            retries: jobs.retries,
            unreadable: jobs.unreadable,
            parked,
            unreadable_parked,
            rooted_paths,
            rooted_bytes,
            summary,
        })
    }
}

/// The queued jobs in numbers.
#[derive(Debug, Default)]
struct Jobs {
    count: usize,
    paths: usize,
    /// When the oldest job was created, in seconds since 1970.
    oldest: Option<u64>,
    retries: Vec<Attempts>,
    unreadable: Vec<String>,
}

impl Jobs {
    fn read(queue: &Queue) -> Result<Self> {
        let mut jobs = Self::default();
        // A job moves from the first place to the second, so this order misses no job.
        for place in [Place::Incoming, Place::Work] {
            for id in queue.list(place).map_err(in_queue)? {
                match queue.read(place, &id) {
                    Ok(Entry::Job(job, _)) => {
                        jobs.count += 1;
                        jobs.paths += job.paths.len();
                        jobs.oldest = Some(jobs.oldest.map_or(job.created, |oldest| oldest.min(job.created)));
                        jobs.retries.extend(job.attempts);
                    }
                    Ok(Entry::Gone) => {}
                    Ok(Entry::Bad(bad)) => jobs.unreadable.push(format!("{id} ({bad})")),
                    Err(error) => jobs.unreadable.push(error.to_string()),
                }
            }
        }
        Ok(jobs)
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
