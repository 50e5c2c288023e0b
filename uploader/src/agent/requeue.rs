//! Queueing by somebody who need not be root: where `gcroots/auto` may not be written, the daemon makes the roots.

use larder_hook::queue::{Job, Parked, Place, Queue};

use super::inbox::in_queue;
use crate::base::error::Result;
use crate::store::{Daemon, StoreLocation};

/// Queues a job whose paths a collection does not take. The inner error is that of roots that could not be made: the
/// job is queued all the same.
pub(crate) fn enqueue(queue: &Queue, store: &StoreLocation, job: &Job) -> Result<Result<()>> {
    let (id, unprotected) = queue.enqueue(job, Place::State, Some(&auto(store))).map_err(in_queue)?;
    Ok(if unprotected.is_some() { register(queue, store, &id, job.paths.len()) } else { Ok(()) })
}

/// Queues a parked path again; whether it was still parked. Its own root goes only when the new one holds.
pub(crate) fn requeue(queue: &Queue, store: &StoreLocation, parked: &Parked) -> Result<bool> {
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

fn register(queue: &Queue, store: &StoreLocation, id: &str, count: usize) -> Result<()> {
    let mut daemon = Daemon::connect(store)?;
    queue.links(id, count).try_for_each(|link| daemon.add_indirect_root(&link))
}
