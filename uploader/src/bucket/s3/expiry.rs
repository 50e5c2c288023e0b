//! Whether the server refuses old signatures.
//!
//! The protocol of collections relies on it: a change that a process sends much later than it signed it must not be carried
//! out. AWS, MinIO and SeaweedFS refuse a signature in headers that is more than 15 minutes old or early; all kinds of requests
//! were tried on the latter two. Garage takes such signatures for 24 hours. But all of them, Garage too, refuse a signature in
//! the query after the time that it names itself. So changes that have a fence are signed in the query if the server takes old
//! signatures in headers.
//!
//! Not always, because such a signature leaves the body out: SeaweedFS and Garage refuse one with a hash of the body. A
//! checksum in a header protects the body against accidents, and TLS against others.

use std::sync::OnceLock;
use std::time::Duration;

/// An age that no server takes that refuses signatures after 15 minutes, even if the clocks differ as much.
pub(super) const OLD: Duration = Duration::from_secs(40 * 60);

/// The time limit of a question for it. Without an answer, an expiry is the safer way.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// How an attempt is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// In the headers. The server decides how long the signature is valid.
    Headers,
    /// In the query, with the time for which the signature is valid.
    Query,
}

/// What is known about a server.
#[derive(Debug, Default)]
pub(super) struct OldSignatures {
    /// Whether it takes them.
    pub(super) taken: OnceLock<bool>,
    pub(super) asking: tokio::sync::Mutex<()>,
}

impl OldSignatures {
    /// What is known from the start.
    pub(super) fn new(taken: Option<bool>) -> Self {
        let known = Self::default();
        if let Some(taken) = taken {
            // Nothing was set before.
            let _ = known.taken.set(taken);
        }
        known
    }
}

/// Whether the server takes old signatures, by its answers to the same question with an old signature and with a new one. `None`
/// if the answer to the new one is needed and not given.
pub(super) fn are_taken(old: (u16, &str), new: Option<(u16, &str)>) -> Option<bool> {
    match old {
        (_, "RequestTimeTooSkewed" | "RequestExpired") => Some(false),
        (200..=299, "") => Some(true),
        // If the age makes no difference, the server refuses for another reason.
        _ => new.map(|new| old == new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_of_the_age_shows_that_old_signatures_are_refused() {
        let (denied, done) = ((403, "AccessDenied"), (200, ""));
        for (old, new, taken) in [
            ((403, "RequestTimeTooSkewed"), None, Some(false)),
            (done, None, Some(true)),
            ((400, "InvalidRequest"), None, None),
            ((400, "InvalidRequest"), Some(done), Some(false)),
            ((400, "InvalidRequest"), Some(denied), Some(false)),
            (denied, Some(denied), Some(true)),
        ] {
            assert_eq!(are_taken(old, new), taken, "{old:?} {new:?}");
        }
    }
}
