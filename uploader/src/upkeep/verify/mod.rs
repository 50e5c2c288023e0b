//! Verification: is the bucket whole?
//!
//! `frame.rs` reads the objects that every cache has, `structure.rs` judges the paths of a catalog, and `leftovers.rs` finds
//! the objects that nobody needs. `fault.rs` says what each fault means.

mod fault;
mod frame;
mod leftovers;
mod local_store;
mod structure;

pub use fault::{Fault, Kind, Severity};
pub use frame::{Frame, read_frame};
pub use leftovers::leftovers;
pub use local_store::missing_by_local_store;
pub use structure::{Structure, structure};

#[cfg(test)]
mod tests;
