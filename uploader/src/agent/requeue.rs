//! Queues jobs for users other than root: where a user may not write to `gcroots/auto`, the daemon makes the roots.
//! Queues parked paths again, and forgets them.

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

/// Reduces the parked paths to the named paths and the paths that they block.
///
/// # Errors
/// A named path is not parked.
pub(crate) fn select_parked(
    mut parked: Vec<Parked>,
    store: &StoreLocation,
    named: &[StorePath],
) -> Result<Vec<Parked>> {
    let mut wanted = Vec::new();
    for path in named {
        let queued = to_queued(store, path);
        let queued = queued.filter(|queued| parked.iter().any(|parked| parked.path == *queued));
        wanted.push(queued.ok_or_else(|| {
            let path = store.store_dir.render_path(path);
            Error::permanent(Area::Usage, format!("`{path}` is not parked"))
                .hint("`larder status` lists the parked paths")
        })?);
    }
    parked.retain(|parked| {
        wanted.contains(&parked.path) || parked.blocked_by.as_ref().is_some_and(|by| wanted.contains(by))
    });
    Ok(parked)
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
