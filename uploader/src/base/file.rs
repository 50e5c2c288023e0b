//! Operations on files from async code.

use std::io::ErrorKind;

use super::error::{Area, Error, Result, Retry};

/// The largest object or file that is read into memory as a whole: 4 MiB.
pub const MAX_SMALL: u64 = 4 << 20;

/// Runs `work` where it may block, and gives its error the name of the operation.
pub(crate) async fn blocking<T: Send + 'static>(
    what: String,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(explain(what, error)),
        Err(error) => Err(Error::new(Area::Bucket, Retry::Unknown, what).because(error)),
    }
}

fn explain(what: String, error: std::io::Error) -> Error {
    let kind = error.kind();
    let retry = match kind {
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::InvalidInput
        | ErrorKind::InvalidFilename
        | ErrorKind::FileTooLarge
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory => Retry::Permanent,
        _ => Retry::Transient,
    };
    let built = Error::new(Area::Bucket, retry, what).because(error);
    match kind {
        ErrorKind::NotFound => built.hint("make the directory, or have it made with `larder init --create`"),
        ErrorKind::PermissionDenied => built.hint("the user that larder runs as needs to write there"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => built.hint("free some space"),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            built.hint("in a directory no key can be the start of another up to a `/`")
        }
        _ => built,
    }
}
