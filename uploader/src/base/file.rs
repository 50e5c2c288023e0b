//! File operations.

use std::io::ErrorKind;
use std::path::Path;

use larder_hook::directories::make_directories;

use super::error::{Area, Error, Result, Retry};
use super::whole_file;

/// The size of the largest object or file that larder reads into memory completely, in bytes.
pub const MAX_SMALL: u64 = 4 << 20;

/// Runs `work` on a thread that may block. `what` names the operation in the error: "cannot read …".
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

/// Writes a file that everybody may read, whole or not at all. Makes its directory if that does not exist.
pub(crate) fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        make_directories(directory)?;
    }
    whole_file::write(file, text.as_bytes(), 0o644)
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
        ErrorKind::NotFound => built.hint("create the directory, or run `larder init --create`"),
        ErrorKind::PermissionDenied => {
            built.hint("give the user that larder runs as the permission to write there")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => built.hint("free some space"),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => built.hint(
            "in a directory, an object key followed by `/` cannot be the beginning of another object key",
        ),
        _ => built,
    }
}
