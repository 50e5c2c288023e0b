//! Nix's own configuration: reading `nix.conf` as Nix does, changing it so that the change can be taken back, and
//! judging what stands in it. No I/O but for reading files through a function of the caller's.

mod block;
mod file;

pub use block::Block;
pub use file::{NixConf, Origin, Read};
