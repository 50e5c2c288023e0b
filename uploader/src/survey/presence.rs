//! The presence of a path in a bucket.

use crate::base::error::Error;

/// The presence of a path's narinfo in the bucket.
#[derive(Clone, Debug)]
pub enum Presence {
    /// No narinfo.
    Absent,
    /// A narinfo with all our signatures.
    Complete,
    /// A narinfo of the same contents that lacks some of our signatures.
    LacksSignatures,
    /// A narinfo of other contents.
    Differs,
    /// The presence is not known: the request failed, or the narinfo is malformed.
    Unknown(Error),
}
