//! What every other part uses: errors, exit codes, waiting times, a clock, files, locks.

pub mod backoff;
pub mod clock;
pub mod error;
pub mod exit;
pub mod file;
pub mod lock;
