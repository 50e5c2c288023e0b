//! The presence of a path in a bucket.

use crate::base::error::Error;

/// Whether a client can take a path from the bucket, as far as the path's own narinfo and NAR tell. The presence of its
/// references is asked by itself.
#[derive(Clone, Debug)]
pub enum Presence {
    /// No narinfo.
    Absent,
    /// A client can take the path, and the narinfo has all our signatures.
    Complete,
    /// A narinfo of the same contents, whose NAR is there, lacks some of our signatures.
    LacksSignatures {
        /// Whether a client accepts the narinfo as it is.
        accepted: bool,
    },
    /// A client can take the path, but gets another build of it, which a trusted key of this name signed.
    Differs {
        /// The name of the key.
        signer: String,
    },
    /// A narinfo that no client can use, and that larder may replace.
    Replaceable,
    /// A narinfo that no client can use, and that larder may not replace, for this reason.
    Unusable(String),
    /// The presence is not known: the request failed.
    Unknown(Error),
}

impl Presence {
    /// Whether a client can take the path.
    pub fn is_available(&self) -> bool {
        matches!(self, Self::Complete | Self::Differs { .. } | Self::LacksSignatures { accepted: true })
    }

    /// Whether the bucket did not tell.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}
