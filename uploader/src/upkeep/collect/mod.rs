//! Removes from a bucket what nothing keeps, while writers use it. `docs/collecting.md` describes the protocol.
//!
//! [`mark`] reads the bucket and finds the garbage. A [`Collector`] drives the state machine of `protocol/` with it, within a
//! session whose lease has the role of a collector.

mod acting;
mod collector;
mod garbage;
mod last_look;
mod lists;
mod marking;
mod orphans;
mod purge;
mod removal;
mod saving;
mod succession;
mod undo;
mod worker;

pub use acting::Ended;
pub use garbage::Garbage;
pub use marking::{Inputs, Marking, mark};
pub use orphans::NAR_GRACE;
pub use purge::Purge;
pub use removal::{bury, lift, removal};
pub use undo::{Past, Undone, past, undo};
pub use worker::{Collector, News};

#[cfg(test)]
mod tests;
