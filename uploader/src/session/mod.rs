//! A process's session with a bucket: admission, lease, facts, reservations, trust in other writers, the removal of what dead
//! writers left, and the protocol by which writers and collectors share the bucket.

mod admission;
mod collector;
mod facts;
mod gate_keeper;
mod lease;
mod look;
mod names;
mod needs;
mod rescue;
mod reservation;
mod sweep;
mod vouchers;
mod writer;

pub use admission::admit;
pub use collector::{CollectorSession, Seen, acknowledged_by};
pub use facts::{FACT_AGE, Facts, Proof};
pub use gate_keeper::{acknowledged, limits};
pub use look::{Listed, OpenList, Parts, list, read_list};
pub use names::{BucketNames, HashPart, Keys, Paths, Shared};
pub use reservation::{Patience, Reservations};
pub use writer::Session;

#[cfg(test)]
mod collection_tests;
