//! The lock that makes an agent the only agent of its queue.
//!
//! The lock is a `flock` on the directory `state/` itself. One user could leave a lock file behind that another user
//! cannot open; a directory has no such problem. Everybody who can open a directory can lock it, so `state/` is open to
//! the agent's user and to root only.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::layout::{Layout, Place};
use crate::failure::{Failure, Result};

/// The number of attempts at the lock, and the pause between two of them.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// The lock of an agent on its queue. Dropping it releases the lock.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lasts as long as the descriptor is open")] OwnedFd);

impl Lock {
    /// Takes the lock; `None` if another agent holds it.
    pub(super) fn take(layout: &Layout) -> Result<Option<Self>> {
        // A process that asks whether the queue has an agent holds a shared lock for a moment.
        for _ in 0..ATTEMPTS {
            if let Some(lock) = attempt(layout, FlockOperation::NonBlockingLockExclusive)? {
                return Ok(Some(lock));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }

    /// Whether an agent holds the lock.
    pub(super) fn is_held(layout: &Layout) -> Result<bool> {
        Ok(attempt(layout, FlockOperation::NonBlockingLockShared)?.is_none())
    }
}

fn attempt(layout: &Layout, operation: FlockOperation) -> Result<Option<Lock>> {
    let directory = layout.dir(Place::State)?;
    match rustix::fs::flock(&directory, operation) {
        Ok(()) => Ok(Some(Lock(directory))),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(Failure::at("lock", &layout.path_of(Place::State))(errno)),
    }
}
