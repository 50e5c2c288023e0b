//! Private Nix stores of each version, with a daemon of their own or without.
//!
//! # Two stores with the same store directory
//! A path can be substituted only between stores of the same logical store directory. Each [`NixHome`] has a logical
//! store directory of its own below `/tmp`, which needs neither root nor a sandbox, and has two ways to a second store:
//!
//! - [`NixHome::twin`]: a second store with the same logical and another physical directory
//!   (`local?store=…&real=…`). It can substitute, verify, collect; programs in it cannot be run from their logical path,
//!   and it cannot build without a sandbox.
//! - [`NixHome::retire`]: the first store is renamed, and a new and empty store takes its place. Programs that it
//!   substitutes can be run.
//!
//! Both work the same on 2.8, 2.26 and 2.34.

mod daemon;
mod home;
mod info;
pub mod samples;
mod version;

pub use daemon::Daemon;
pub use home::{KeyPair, NixHome};
pub use info::{PathInfo, hash_part, narinfo_key};
pub use version::{NixVersion, versions};
