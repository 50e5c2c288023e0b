//! Errors of the queue's directory.

use larder_hook::Failure;

use super::error::{Area, Error};

/// Turns a failure of the queue's directory into an error of the uploader. The error is transient: a full disk is
/// cleared, a missing directory is made.
pub(crate) fn in_queue(failure: Failure) -> Error {
    let hint = match failure.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no queue yet: the hook makes it at the first build, or run `larder queue create`"
        }
        std::io::ErrorKind::PermissionDenied => "run as root or as the agent's user",
        std::io::ErrorKind::StorageFull => "the disk is full: free some space",
        _ => return Error::transient(Area::Queue, failure.to_string()),
    };
    Error::transient(Area::Queue, failure.to_string()).hint(hint)
}
