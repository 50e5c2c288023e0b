//! A push decides, sends and publishes. Each stage hands plain values to the next, and [`Pusher`] composes the stages.

mod claims;
pub mod decide;
mod execution;
mod logs;
#[cfg(test)]
mod model_tests;
mod notes;
pub mod outcome;
mod pins;
pub mod progress;
pub mod publish;
mod pusher;
mod realisations;
pub mod send;
mod store_access;

pub use decide::{Request, Root};
pub use logs::{FailedBuild, LogOptions};
pub use outcome::{Outcome, OutcomeKind, Report};
pub use pins::PinRules;
pub use progress::Progress;
pub use pusher::{Options, Pusher};
