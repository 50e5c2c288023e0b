//! The files that `tests/provision` has installed.

use std::path::{Path, PathBuf};

/// The cache directory, outside the clone: `$LARDER_TEST_CACHE`, else `larder-tests` in the user's cache directory.
pub fn dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("LARDER_TEST_CACHE") {
        return PathBuf::from(dir);
    }
    let base =
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute()).unwrap_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        );
    base.join("larder-tests")
}

/// A file below the cache directory, if it exists.
pub fn file(relative: &str) -> Option<PathBuf> {
    Some(dir().join(relative)).filter(|p| p.exists())
}

/// The version that `tests/provision` recorded for an item, such as `nix-sid`.
pub fn version(item: &str) -> Option<String> {
    let text = std::fs::read_to_string(dir().join("versions")).ok()?;
    text.lines().find_map(|l| l.strip_prefix(item)?.strip_prefix(' ').map(str::to_owned))
}

/// A program on `PATH`, or in one of the usual directories.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from))
        .map(|d| d.join(name))
        .find(|p| is_executable(p))
}

/// Whether a path is a file that may be executed.
pub fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
