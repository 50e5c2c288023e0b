//! The on-disk queue. `docs/queue.md` describes its files.
//!
//! Each file of this module imports only from files that stand before it in this list:
//!
//! 1. `layout`: the directories and their owners
//! 2. `files`: writing, reading, moving and removing whole files
//! 3. `lock`: the lock that an agent holds
//! 4. `job`: the format of a job; pure
//! 5. `parked`: the format of a parked path; pure
//! 6. `gcroot`: garbage-collector roots
//! 7. `operations`: [`Queue`], and the operations on jobs
//! 8. `parking`: the operations on parked paths

mod files;
pub mod gcroot;
mod job;
mod layout;
mod lock;
mod operations;
mod parked;
mod parking;
#[cfg(test)]
mod tests;

pub use job::{Attempts, BadJob, Job, Origin};
pub use layout::{Layout, Owner, Place, SINCE};
pub use lock::Lock;
pub use operations::{Author, Entry, Queue};
pub use parked::Parked;
