//! Catch-up: finds the paths that were built here while no hook ran, and queues them.

use larder_hook::queue::{Job, Origin, Place, Queue, SINCE};
use larder_hook::time::now;

use super::path_conversion::to_queued;
use super::requeue::enqueue;
use crate::base::error::{Error, Result};
use crate::base::queue_error::in_queue;
use crate::format::path_info::PathInfo;
use crate::store::{Daemon, StoreLocation, all_outputs};

/// The file in `state/` with the time at which the last catch-up began, in seconds since 1970.
const CAUGHT_UP: &str = "caught-up";
/// How far a catch-up looks back behind the last one, in seconds: clocks are set, and the hook of a build may still have
/// been running.
const OVERLAP: u64 = 3600;
/// The most paths of one job.
const PATHS_A_JOB: usize = 100;

/// The paths that a catch-up has found.
#[derive(Debug)]
pub(crate) struct CatchUp {
    /// When it began, in seconds since 1970.
    begun: u64,
    /// The paths, in the order in which they were registered.
    pub(crate) built: Vec<PathInfo>,
    /// Whether the queue has lost the time when it was made.
    pub(crate) lost_time: bool,
}

impl CatchUp {
    /// Asks the daemon for the paths that were built here: since the last catch-up or since the queue was made, or,
    /// with `all`, ever. Blocks.
    pub(crate) fn find(queue: &Queue, store: &StoreLocation, all: bool) -> Result<Self> {
        let begun = now();
        let from = Beginning::read(queue, begun)?;
        let since = if all { 0 } else { from.since };
        let mut daemon = Daemon::connect(store)?;
        let valid = all_outputs(&mut daemon)?;
        let mut built: Vec<PathInfo> = daemon.path_infos(&valid)?.into_iter().flatten().collect();
        built.retain(|info| info.ultimate && info.registration_time >= since);
        built.sort_by_key(|info| info.registration_time);
        Ok(Self { begun, built, lost_time: from.lost_time })
    }

    /// Queues the paths, and records the catch-up. Returns the error that kept roots from being made, if any: the jobs
    /// are queued all the same.
    pub(crate) fn enqueue(&self, queue: &Queue, store: &StoreLocation) -> Result<Option<Error>> {
        let mut unprotected = None;
        for infos in self.built.chunks(PATHS_A_JOB) {
            unprotected = enqueue(queue, store, &job(store, infos, self.begun))?.err().or(unprotected);
        }
        let text = format!("{}\n", self.begun);
        for name in [CAUGHT_UP].into_iter().chain(self.lost_time.then_some(SINCE)) {
            let written = queue.layout().write(Place::State, Place::State, name, text.as_bytes());
            written.map_err(in_queue)?;
        }
        Ok(unprotected)
    }
}

/// From when on builds are looked for.
struct Beginning {
    /// In seconds since 1970.
    since: u64,
    /// Whether the queue has lost the time when it was made.
    lost_time: bool,
}

impl Beginning {
    /// Reads the times of the queue. Builds from before the queue are never looked for: a queue that has lost the time
    /// when it was made counts as made at the last catch-up, or else at the time `begun`.
    fn read(queue: &Queue, begun: u64) -> Result<Self> {
        let read = |name| -> Result<Option<u64>> {
            let text = match queue.layout().read(Place::State, name) {
                Err(error) if error.is_no_file() => None,
                read => read.map_err(in_queue)?,
            };
            let time = text.and_then(|(bytes, _)| String::from_utf8_lossy(&bytes).trim().parse().ok());
            // A time in the future was written while the clock was ahead, and means nothing.
            Ok(time.filter(|at| *at <= begun))
        };
        let (made, caught_up) = (read(SINCE)?, read(CAUGHT_UP)?);
        let since = match made {
            Some(made) => caught_up.map_or(made, |at| made.max(at.saturating_sub(OVERLAP))),
            None => caught_up.unwrap_or(begun),
        };
        Ok(Self { since, lost_time: made.is_none() })
    }
}

fn job(store: &StoreLocation, infos: &[PathInfo], created: u64) -> Job {
    Job {
        origin: Origin::CatchUp,
        created,
        deriver: None,
        trusted_keys: Vec::new(),
        paths: infos.iter().filter_map(|info| to_queued(store, &info.path)).collect(),
        attempts: Vec::new(),
        roots: infos.len(),
    }
}
