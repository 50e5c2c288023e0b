//! Brings paths from another cache into the bucket, without a local store: copies from any cache, and the promotion of staged
//! builds within a server.
//!
//! [`survey`] asks both sides, [`order`] decides, and [`Carrier`] carries NARs and publishes narinfos, references first.

mod carry;
mod logs;
mod order;
mod realisations;
mod survey;

pub use carry::{Carrier, Carry};
pub use order::{Decided, order};
pub use survey::{Found, State, Surveyor, Upstream, listed, present_roots, there};

#[cfg(test)]
mod tests;
