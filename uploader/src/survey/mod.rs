//! What a bucket holds: scans of prefixes, the paths that a client can take, and NARs of known contents.

mod decode;
mod examination;
mod nar_reader;
mod narinfos;
mod nars;
mod needs;
mod paced;
mod pins;
mod prefix_scan;
mod presence;
mod recheck;
mod verify;

pub use decode::{CLIENT_WINDOW, OWN_WINDOW};
pub use examination::{Examined, Examiner, vanished};
pub use nar_reader::{ByteRate, NarContents, NarFault, NarSource, read_nar, read_nar_from};
pub use narinfos::{BucketScan, FEW, Survey, Surveyed};
pub use nars::{NarScan, find_nar};
pub use needs::read_needs;
pub use paced::PacedReader;
pub use pins::read_pins;
pub use presence::Presence;
pub use recheck::{Finding, recheck};
pub use verify::Verifier;
