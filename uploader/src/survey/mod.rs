//! What a bucket holds: listings of prefixes, and the presence of paths.

pub mod prefix_scan;
pub mod presence;
