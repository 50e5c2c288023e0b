//! What a bucket holds: scans of prefixes, the paths that a client can take, and NARs of known contents.

mod examination;
mod narinfos;
mod nars;
mod prefix_scan;
mod presence;

pub use examination::{Examined, Examiner, vanished};
pub use narinfos::{BucketScan, FEW, Survey, Surveyed};
pub use nars::{NarScan, find_nar};
pub use presence::Presence;
