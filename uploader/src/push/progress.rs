//! The events of a running push. The command line renders them as a progress bar, plain lines or JSON.

use nix_derivation::StorePath;

use super::decide::Plan;
use super::outcome::Outcome;

/// The effort of compression at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// The level of the format.
    pub level: i32,
    /// The number of threads that share the NAR.
    pub threads: u32,
    /// The window log of zstd with long-distance matching: the window has 2 to the power of this number of bytes.
    /// `None` means the default window of the level, without long-distance matching.
    pub window_log: Option<u32>,
}

/// Receives the events of a push. Several threads call it at the same time.
pub trait Progress: Send + Sync {
    /// The plan is complete.
    fn planned(&self, _plan: &Plan) {}
    /// A thread begins to read the NAR of a path. The size is in bytes.
    fn started(&self, _path: &StorePath, _nar_size: u64) {}
    /// This number of bytes of NARs was read since the last call.
    fn advanced(&self, _bytes: u64) {}
    /// `from` bytes of NARs were compressed to `to` bytes with this effort since the last call.
    fn compressed(&self, _from: u64, _to: u64, _effort: Effort) {}
    /// A path has its outcome.
    fn finished(&self, _path: &StorePath, _outcome: &Outcome) {}
    /// A message for people.
    fn remark(&self, _text: &str) {}
}

/// Ignores all events.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {}
