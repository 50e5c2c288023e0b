//! The model of how writers and collectors share a bucket.
//!
//! It drives the state machines of `larder::protocol` through every interleaving of processes, requests, crashes and
//! freezing, within bounds that [`Setting`] states. `docs/collecting.md` tells what it shows, and what it leaves out.
//!
//! # Time
//!
//! There are no clocks in the states. What time proves is used instead: a request that was signed `E` ago is settled, so a
//! process that has waited `E` goes on only when the request has been carried out or dropped; a lease that was seen
//! unchanged for `L` belongs to a process whose session is over and whose requests are settled, so an observer counts it as
//! dead only then. Conversely, requests are carried out or dropped, and sessions end, at any moment. So the model has every
//! order of events that real clocks allow, and more. [`clocks`] shows, with clocks, that the real machines
//! for time keep these two promises.

pub mod clocks;
pub mod collector;
pub mod graph;
pub mod setting;
pub mod steps;
pub mod world;
pub mod writer;

pub use setting::{Plan, Setting, Work};
pub use steps::{Act, DELETED, LATE, PROMISED};
pub use world::World;
