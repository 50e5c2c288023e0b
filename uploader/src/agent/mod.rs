//! Works off the queue: takes jobs, pushes their paths, removes them; retries, parks, reports.
//!
//! `event_loop` decides when, `keeper` does what blocks on the thread of `queue_thread`, `decide` is pure, and `apply`
//! writes. The other files serve commands that use the queue without being its agent.

mod apply;
mod catch_up;
mod daemon_connection;
mod decide;
mod event_loop;
mod failed_builds;
mod flush;
mod inbox;
mod keeper;
mod looks;
mod path_conversion;
mod pinned;
mod pulse;
mod queue_status;
mod queue_thread;
mod recheck;
mod records;
mod relied_on;
mod requeue;
mod running_push;
mod service;
mod watch;

pub use event_loop::{Agent, Connect, Until};
pub use records::{Gone, Summary};
pub use service::Service;

pub(crate) use catch_up::CatchUp;
pub(crate) use flush::{Flush, Flushed};
pub(crate) use queue_status::QueueStatus;
pub(crate) use recheck::{Damaged, Recheck, Remedy};
pub(crate) use requeue::{forget, not_parked, requeue_all, select_parked};
