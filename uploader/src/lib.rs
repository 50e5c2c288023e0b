//! larder: signs Nix store paths and pushes them into a bucket that stock Nix clients read.

pub mod agent;
pub mod bucket;
pub mod cache;
pub mod cli;
pub mod config;
pub mod error;
pub mod exit;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod nixconf;
pub mod push;
pub mod relay;
pub mod setup;
pub mod store;
