//! Reads `nix.conf` as Nix does, and changes it in such a way that the change can be taken back. This module reads
//! files only through a function of the caller.

mod block;
mod file;

pub use block::Block;
pub use file::{NixConf, Origin, Read};
