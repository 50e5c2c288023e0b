//! Working off the queue: take, push, acknowledge; retry, park, report.

mod inbox;
mod records;
mod requeue;
mod run;
mod service;
mod settle;
mod watch;

pub use inbox::{Held, Inbox};
pub(crate) use inbox::{from_queued, in_queue, to_queued};
pub use records::{Gone, Summary};
pub(crate) use requeue::{enqueue, requeue};
pub use run::{Agent, Connect, NUDGE, Until};
pub use service::Service;
