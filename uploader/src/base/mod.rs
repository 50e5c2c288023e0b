//! The pieces that all other parts use: errors, exit codes, backoff, a clock, files, locks.

pub mod backoff;
pub mod clock;
pub mod error;
pub mod exit;
pub mod file;
pub mod hex;
pub mod lock;
pub mod queue_error;
pub mod span;
pub(crate) mod whole_file;
