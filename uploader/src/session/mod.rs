//! A writer's session with a bucket: admission, lease, facts, reservations, trust in other writers, and the removal of
//! what dead writers left.

mod admission;
mod facts;
mod lease;
mod reservation;
mod sweep;
mod vouchers;
mod writer;

pub use admission::admit;
pub use facts::{FACT_AGE, Facts, Proof};
pub use reservation::{Patience, Reservations};
pub use writer::Session;
