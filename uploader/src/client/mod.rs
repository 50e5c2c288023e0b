//! A machine that reads from a cache.
//!
//! - [`nix_conf`]: reads and changes `nix.conf`
//! - [`configuration`]: judges the caches and keys in this machine's `nix.conf`
//! - [`instructions`]: texts that tell how to add and remove a cache
//! - [`check`]: tries a cache as a client does
//! - [`probe`]: asks caches whether they can be reached
//! - [`verdict`]: what the guard takes from the probe
//! - [`guard`]: keeps caches that cannot be reached out of Nix's configuration
//! - [`relay`]: answers Nix in place of caches that cannot be reached

pub mod check;
pub mod configuration;
pub mod guard;
pub mod instructions;
pub mod nix_conf;
pub mod probe;
pub mod relay;
pub mod verdict;
