//! Recheck: the paths that the agent has relied on, and the queue for those that clients cannot take any more.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use larder_hook::queue::{Job, Origin, Queue};
use larder_hook::store_path::StorePath as QueuedPath;
use larder_hook::time::now;
use rand_core::{OsRng, RngCore};

use super::flush::Flush;
use super::path_conversion::to_queued;
use super::relied_on;
use super::requeue::enqueue;
use crate::base::error::{Error, Result};
use crate::base::queue_error::in_queue;
use crate::format::path_info::PathInfo;
use crate::store::{Daemon, StoreLocation, StorePath};

/// The most paths of one job.
const PATHS_A_JOB: usize = 64;

/// A recheck of the bucket at one address. Everything here blocks.
#[derive(Debug)]
pub(crate) struct Recheck {
    queue: Arc<Queue>,
    store: Arc<StoreLocation>,
    address: String,
}

/// A path that clients cannot take.
#[derive(Clone, Debug)]
pub(crate) struct Damaged {
    pub(crate) path: StorePath,
    /// Whether the path is valid in the store.
    pub(crate) in_store: bool,
    /// Why clients cannot take it.
    pub(crate) reason: String,
}

/// What follows for a damaged path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The agent pushes it again.
    Queue,
    /// It is parked: a person has to decide.
    Parked,
    /// The store does not have it.
    NotInStore,
}

impl Recheck {
    /// A recheck of what the agent of `queue` has relied on in the bucket at `address`.
    pub(crate) fn new(queue: Arc<Queue>, store: Arc<StoreLocation>, address: String) -> Self {
        Self { queue, store, address }
    }

    /// The paths on the list, from a random place on: a recheck that never comes to its end still reaches each path some
    /// day.
    pub(crate) fn relied_on(&self) -> Vec<StorePath> {
        let mut paths = relied_on::read(self.queue.layout(), &self.address);
        if let Some(begin) = OsRng.next_u64().checked_rem(paths.len() as u64) {
            paths.rotate_left(begin as usize);
        }
        paths
    }

    /// The path infos of paths; `None` for a path that is not valid.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub(crate) fn infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>> {
        Daemon::connect(&self.store)?.path_infos(paths)
    }

    /// Says what follows for each damaged path. A parked path is not queued.
    ///
    /// # Errors
    /// The parked paths cannot be listed.
    pub(crate) fn decide(&self, damaged: Vec<Damaged>) -> Result<Vec<(Damaged, Remedy)>> {
        let parked: HashSet<_> =
            self.queue.parked().map_err(in_queue)?.0.into_iter().map(|parked| parked.path).collect();
        let remedy = |damaged: &Damaged| match to_queued(&self.store, &damaged.path) {
            Some(queued) if parked.contains(&queued) => Remedy::Parked,
            Some(_) if damaged.in_store => Remedy::Queue,
            _ => Remedy::NotInStore,
        };
        Ok(damaged.into_iter().map(|damaged| (damaged.clone(), remedy(&damaged))).collect())
    }

    /// Queues paths, unless they are queued. The origin of the jobs makes the agent read the narinfos, whatever it
    /// knows. Returns the error that kept roots from being made, if any: the jobs are queued all the same.
    ///
    /// # Errors
    /// The queue cannot be read or written.
    pub(crate) fn enqueue(&self, paths: &[StorePath]) -> Result<Option<Error>> {
        let before: BTreeSet<QueuedPath> = Flush::begin(self.queue.clone())?.into_paths();
        let paths: Vec<_> = paths
            .iter()
            .filter_map(|path| to_queued(&self.store, path))
            .filter(|path| !before.contains(path))
            .collect();
        let mut unprotected = None;
        for paths in paths.chunks(PATHS_A_JOB) {
            let job = Job {
                origin: Origin::Retry,
                created: now(),
                deriver: None,
                trusted_keys: Vec::new(),
                paths: paths.to_vec(),
                attempts: Vec::new(),
                roots: paths.len(),
            };
            unprotected = enqueue(&self.queue, &self.store, &job)?.err().or(unprotected);
        }
        Ok(unprotected)
    }

    /// Takes paths off the list.
    ///
    /// # Errors
    /// The list cannot be written.
    pub(crate) fn forget(&self, gone: &HashSet<StorePath>) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        relied_on::remove(self.queue.layout(), &self.address, gone)
    }
}
