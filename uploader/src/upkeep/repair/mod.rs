//! Repair: makes a bucket whole.
//!
//! `patient.rs` says which paths are at fault, `examine.rs` looks at each of them and at what the sources have, and
//! `decide.rs` lists the ways to mend it. `repairer.rs` goes these ways: `nars.rs` obtains sound NARs, `repoint.rs` lets narinfos
//! name them, and `fetch.rs` publishes paths from other caches. `take_back.rs` says what goes if something cannot be mended.

mod decide;
mod examine;
mod fetch;
mod nars;
mod outcome;
mod patient;
mod repairer;
mod repoint;
mod source;
mod take_back;

pub use decide::{Plan, Way, decide};
pub use examine::{Examined, Examiner, State};
pub use outcome::{How, Mended, Mending};
pub use patient::{Patient, patients};
pub use repairer::Repairer;
pub use source::Source;
pub use take_back::{TakeBack, take_back};

#[cfg(test)]
mod tests;
