//! Queues jobs for users other than root: where a user may not write to `gcroots/auto`, the daemon makes the roots.
//! Queues parked paths again, and forgets them.

use std::sync::Arc;

use larder_hook::queue::{Job, Parked, Place, Queue};

use super::path_conversion::to_queued;
use crate::base::error::{Area, Error, Result};
use crate::base::queue_error::in_queue;
use crate::store::{Daemon, StoreLocation, StorePath};

/// Queues a job with roots. The inner error means that roots could not be made: the job is queued all the same.
pub(super) fn enqueue(queue: &Queue, store: &StoreLocation, job: &Job) -> Result<Result<()>> {
    let (id, unprotected) = queue.enqueue(job, Place::State, Some(&auto(store))).map_err(in_queue)?;
    Ok(if unprotected.is_some() { register(queue, store, &id, job.paths.len()) } else { Ok(()) })
}

/// The error about a path that is not parked; `None` if the path is parked.
pub(crate) fn not_parked(parked: &[Parked], store: &StoreLocation, path: &StorePath) -> Option<Error> {
    let queued = to_queued(store, path);
    if parked.iter().any(|parked| queued.as_ref() == Some(&parked.path)) {
        return None;
    }
    let path = store.store_dir.render_path(path);
    let error = Error::permanent(Area::Usage, format!("`{path}` is not parked"));
    Some(error.hint("`larder status` lists the parked paths"))
}

/// Reduces the parked paths to the named paths and the paths that they block.
pub(crate) fn select_parked(
    mut parked: Vec<Parked>,
    store: &StoreLocation,
    named: &[Arc<StorePath>],
) -> Vec<Parked> {
    let wanted: Vec<_> = named.iter().filter_map(|path| to_queued(store, path)).collect();
    parked.retain(|parked| {
        wanted.contains(&parked.path) || parked.blocked_by.as_ref().is_some_and(|by| wanted.contains(by))
    });
    parked
}

/// Queues parked paths again. Returns how many were still parked.
pub(crate) fn requeue_all(queue: &Queue, store: &StoreLocation, parked: &[Parked]) -> Result<usize> {
    parked.iter().try_fold(0, |count, parked| Ok(count + usize::from(requeue(queue, store, parked)?)))
}

/// Removes parked paths and their roots, so that they are neither pushed nor kept from garbage collection.
pub(crate) fn forget(queue: &Queue, parked: &[Parked]) -> Result<usize> {
    parked.iter().try_for_each(|parked| queue.unpark(parked).map_err(in_queue))?;
    Ok(parked.len())
}

/// Queues a parked path again. Returns whether it was still parked. The root of the parked path goes only when the root
/// of the new job holds.
fn requeue(queue: &Queue, store: &StoreLocation, parked: &Parked) -> Result<bool> {
    let Some((id, unprotected)) = queue.requeue(parked, Some(&auto(store))).map_err(in_queue)? else {
        return Ok(false);
    };
    if unprotected.is_none() || register(queue, store, &id, 1).is_ok() {
        queue.layout().unlink(Place::Roots, &parked.link_name()).map_err(in_queue)?;
    }
    Ok(true)
}

fn auto(store: &StoreLocation) -> std::path::PathBuf {
    store.state_dir.join("gcroots/auto")
}

/// Has the daemon register the roots of a job.
fn register(queue: &Queue, store: &StoreLocation, id: &str, count: usize) -> Result<()> {
    let mut daemon = Daemon::connect(store)?;
    queue.links(id, count).try_for_each(|link| daemon.add_indirect_root(&link))
}
