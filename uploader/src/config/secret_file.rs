//! Files that hold secrets.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A warning if every user of the machine can read the file. `what` names its contents: "the signing key".
pub fn exposure(what: &str, path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o7777;
    let path = path.display();
    (mode & 0o004 != 0).then(|| {
        format!("{what} `{path}` can be read by everybody (mode {mode:04o}); run `chmod 600 {path}`")
    })
}
