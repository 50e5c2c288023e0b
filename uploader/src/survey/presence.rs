//! The answer of a survey about one path.

use crate::base::error::Error;

/// What the bucket has under a path.
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
    /// Nothing is known: the bucket could not be asked, or the narinfo is malformed.
    Unknown(Error),
}
