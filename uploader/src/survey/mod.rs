//! What a bucket holds: scans of prefixes, the presence of narinfos, and NARs of known contents.

mod narinfos;
mod nars;
mod prefix_scan;
mod presence;

pub use narinfos::{FEW, NarinfoScan, NarinfoSurvey};
pub use nars::{NarScan, find_nar};
pub use presence::Presence;
