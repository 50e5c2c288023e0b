//! Reads the local Nix store: path infos and closures from the daemon, NARs and build logs from files.
//!
//! All functions block.

mod build_log;
mod closure;
mod daemon;
mod derivations;
mod location;
mod names;
mod nar;
mod selection;

pub use build_log::{BuildLog, LogEncoding, LogText, find_build_log, recent_logs};
pub use closure::{Closure, PathInfoSource, closure};
pub use daemon::{DEFAULT_TIMEOUT, Daemon, ProtocolVersion, Server};
pub use derivations::Derivations;
pub use location::{DaemonAddress, StoreLocation, StoreOptions};
pub use nar::{Digested, HashingWriter, NarError, dump};
pub use nix_derivation::{StoreDir, StorePath};
pub use selection::{Selected, all_outputs, paths_of, valid_paths_of};
