//! Working off the queue: take, push, acknowledge; retry, park, report.

mod inbox;
mod records;
mod run;
mod settle;
mod wait;

pub use inbox::{Held, Inbox};
pub use records::{Gone, Summary};
pub use run::{Agent, Until};
