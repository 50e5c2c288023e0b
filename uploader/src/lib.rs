//! larder: signs Nix store paths and pushes them into a bucket that stock Nix clients read.

pub mod bucket;
pub mod cache;
pub mod error;
pub mod store;
