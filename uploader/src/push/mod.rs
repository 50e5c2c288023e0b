//! The pipeline: plan, upload, publish. Each stage hands plain values to the next.

pub mod budget;
mod buffer;
pub mod clock;
pub mod compress;
mod flow;
mod listed;
#[cfg(test)]
mod model_tests;
mod nar;
pub mod order;
pub mod outcome;
pub mod pace;
pub mod plan;
pub mod policy;
pub mod presence;
pub mod produce;
pub mod progress;
pub mod publish;
pub mod pusher;
mod reservation;
mod run;
pub mod session;
mod sweep;
pub mod upload;

pub use outcome::{Outcome, Report};
pub use plan::{Request, Root};
pub use progress::Progress;
pub use pusher::{Options, Pusher};
