//! Files that hold secrets.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A warning where everybody on the machine can read such a file; `what` it is: "the signing key".
pub fn exposure(what: &str, path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o7777;
    let path = path.display();
    (mode & 0o004 != 0)
        .then(|| format!("{what} `{path}` can be read by everybody (mode {mode:04o}); `chmod 600 {path}`"))
}
