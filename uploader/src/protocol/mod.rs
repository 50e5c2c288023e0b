//! The rules by which writers and collectors share a bucket, as state machines without I/O and without clocks.
//!
//! `docs/collecting.md` describes the protocol as a whole. The parts:
//!
//! - [`limits`]: the times. All are scaled by one factor.
//! - [`names`]: the types of ids, paths and sets that the state machines are generic over.
//! - [`requests`]: which requests of this process may still be carried out.
//! - [`leases`]: who is alive, and which collector may act.
//! - [`gate`]: what a writer may do while collections are open.
//! - [`collection`]: what a collector may do next.
//! - [`look`]: what a collection may take: marking, and the last look.
//! - [`rules`]: the rules one by one, so that tests can take one away.
//!
//! Signing, repairing, promoting and undoing are writers: they use the [`gate`].

pub mod collection;
pub mod gate;
pub mod leases;
pub mod limits;
pub mod look;
pub mod names;
pub mod requests;
pub mod rules;
