//! Which paths of a bucket stay, and which may go.
//!
//! [`decide`] is pure. What pins name stays with its closure. Of the rest, the rules keep what was needed lately: pushed, asked
//! for by a push, or downloaded. A path that stays keeps all that it refers to.

mod access_log;
mod decide;
mod decision;
mod uses;

pub use access_log::{AccessLog, Download};
pub use decide::{GRACE, Rules, decide};
pub use decision::{Decision, Keeper, Verdict};
pub use uses::{Use, Uses};

#[cfg(test)]
mod tests;
