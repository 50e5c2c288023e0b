//! larder: signs Nix store paths and pushes them into a bucket that stock Nix clients read.

pub mod agent;
pub mod base;
pub mod bucket;
pub mod cli;
pub mod client;
pub mod config;
pub mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod init;
pub mod protocol;
pub mod push;
pub mod session;
pub mod setup;
pub mod store;
pub mod survey;
pub mod upkeep;
