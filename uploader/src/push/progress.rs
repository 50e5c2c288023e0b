//! What a push tells while it runs; terminal bars, plain lines and JSON are made of it elsewhere.

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

/// Hears of a push as it goes on. Called from several threads.
pub trait Progress: Send + Sync {
    /// The plan is made.
    fn planned(&self, _plan: &Plan) {}
    /// The NAR of a path is being read.
    fn started(&self, _path: &StorePath, _nar_size: u64) {}
    /// So many more bytes of NARs have been read.
    fn advanced(&self, _bytes: u64) {}
    /// So many more bytes of NARs have become so many bytes of objects, with this effort.
    fn compressed(&self, _from: u64, _to: u64, _effort: Effort) {}
    /// A path is settled.
    fn finished(&self, _path: &StorePath, _outcome: &Outcome) {}
    /// Something that a person may want to know.
    fn remark(&self, _text: &str) {}
}

/// Tells nobody.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {}
