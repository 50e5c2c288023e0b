//! The clock that dates the files of the queue.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The current time in seconds since 1970. A clock that is set to a time before 1970 gives 0.
pub fn now() -> u64 {
    since_1970().as_secs()
}

/// The current time as [`now`] gives it, with nanoseconds.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
