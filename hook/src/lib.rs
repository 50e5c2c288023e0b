//! The library of the `larder-hook` binary, which Nix runs after each build, and the on-disk queue that it writes.
//!
//! The hook only adds jobs to the queue. The uploader processes and removes jobs with the same code. `docs/queue.md`
//! describes the files.

pub mod directories;
pub mod drv;
pub mod environment;
mod failure;
pub mod fault;
mod printable;
pub mod queue;
pub mod settings;
pub mod store_path;
pub mod time;

pub use failure::{Failure, Result};
pub use printable::printable;
