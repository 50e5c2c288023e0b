//! The on-disk queue. `docs/queue.md` describes its files.
//!
//! Each file of this module imports only from files that stand before it in this list:
//!
//! 1. `layout`: the directories and their owners
//! 2. `files`: writing, reading, moving and removing whole files
//! 3. `creation`: making the directories, and their modes
//! 4. `lock`: the lock that an agent holds
//! 5. `job`: the format of a job; pure
//! 6. `parked`: the format of a parked path; pure
//! 7. `gcroot`: garbage-collector roots
//! 8. `operations`: [`Queue`], and the operations on jobs
//! 9. `parking`: the operations on parked paths

mod creation;
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

pub use creation::SINCE;
pub use job::{Attempts, BadJob, Job, Origin};
pub use layout::{Layout, Owner, Place};
pub use lock::Lock;
pub use operations::{Author, Entry, Queue};
pub use parked::Parked;
