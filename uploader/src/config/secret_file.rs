//! Files that hold secrets.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A warning if other users of the machine can read the file. `what` names its contents: "the signing key".
pub fn exposure(what: &str, path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o7777;
    let readers = match mode {
        _ if mode & 0o004 != 0 => "everybody",
        _ if mode & 0o040 != 0 && !is_credential(path) => "its group",
        _ => return None,
    };
    let path = path.display();
    Some(format!("{what} `{path}` can be read by {readers} (mode {mode:04o}); run `chmod 600 {path}`"))
}

/// Whether systemd passes the file to this service. The directory of such files is closed, and the bits of the group can
/// stand for an access list.
fn is_credential(path: &Path) -> bool {
    std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|directory| path.starts_with(directory))
}
