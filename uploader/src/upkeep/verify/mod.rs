//! Verification: is the bucket whole?
//!
//! `frame.rs` reads the objects that every cache has, `structure.rs` judges the paths of a catalog, and `leftovers.rs` finds
//! the objects that nobody needs. `contents.rs` reads NARs; `portion.rs` says which, and `resume.rs` which an interrupted run has
//! read. `local_store.rs` and `upstream.rs` tell about paths that are not in the bucket. `fault.rs` says what each fault means.

mod contents;
mod fault;
mod frame;
mod leftovers;
mod local_store;
mod portion;
mod resume;
mod structure;
mod upstream;

pub use contents::{ReadNar, read_contents};
pub use fault::{Fault, Kind, Severity};
pub use frame::{Frame, read_frame};
pub use leftovers::leftovers;
pub use local_store::missing_by_local_store;
pub use portion::Portion;
pub use resume::Resume;
pub use structure::{Structure, count_affected, structure};
pub use upstream::{Upstream, ask_upstream, has_any};

#[cfg(test)]
mod tests;
