//! The pipeline: decide, send, publish. Each stage hands plain values to the next.

pub mod decide;
pub mod outcome;
pub mod progress;
pub mod publish;
pub mod pusher;
mod run;
pub mod send;

pub use decide::plan::{Request, Root};
pub use outcome::{Outcome, OutcomeKind, Report};
pub use progress::Progress;
pub use pusher::{Options, Pusher};
