//! A machine that reads from a cache: its `nix.conf`, and a relay between Nix and caches that may be away.

pub mod nix_conf;
pub mod relay;
