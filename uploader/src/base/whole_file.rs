//! Files that are written whole or not at all, also if the process is killed, the disk is full, or the power fails.
//!
//! A file is written as a draft beside it, whose name is `.NAME.larder-new`, and synced; then the draft gets the name,
//! and the directory is synced. The mode does not depend on the umask. The files of the queue have a writer of their own
//! (`Layout::write` of the crate `larder_hook`), which reaches them by an open directory.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use larder_hook::directories::sync_parent;

/// Writes or replaces a file. The file gets this mode.
pub(crate) fn write(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    replace(path, |draft| fill(draft, contents, mode))
}

/// Replaces a file. The new file gets the mode and, if possible, the owner of the `old` file.
pub(crate) fn write_like(path: &Path, contents: &[u8], old: &Metadata) -> io::Result<()> {
    replace(path, |draft| {
        let _ = std::os::unix::fs::fchown(draft, Some(old.uid()), Some(old.gid()));
        fill(draft, contents, old.permissions().mode() & 0o7777)
    })
}

/// Creates a file with this mode.
///
/// # Errors
/// The kind is [`ErrorKind::AlreadyExists`] if the file exists.
pub(crate) fn create(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    with_draft(path, |file, draft| {
        fill(file, contents, mode)?;
        match fs::hard_link(draft, path) {
            Ok(()) => fs::remove_file(draft),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
            // The file system has no hard links.
            Err(_) => fs::rename(draft, path),
        }
    })
}

fn replace(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    with_draft(path, |file, draft| {
        fill(file)?;
        fs::rename(draft, path)
    })
}

/// Creates the draft of a file, has `publish` fill it and give it the name of the file, and syncs the directory. Removes
/// the draft after an error.
fn with_draft(path: &Path, publish: impl FnOnce(&File, &Path) -> io::Result<()>) -> io::Result<()> {
    let draft = draft_of(path);
    // The rest of a process that was killed.
    let _ = fs::remove_file(&draft);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    publish(&file, &draft).inspect_err(|_| drop(fs::remove_file(&draft)))?;
    sync_parent(path)
}

fn draft_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.larder-new"))
}

fn fill(mut draft: &File, contents: &[u8], mode: u32) -> io::Result<()> {
    draft.write_all(contents)?;
    draft.set_permissions(Permissions::from_mode(mode))?;
    draft.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_written_created_once_and_replaced_without_a_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(draft_of(&path), "the rest of a killed process").unwrap();
        create(&path, b"1", 0o640).unwrap();
        assert_eq!(create(&path, b"2", 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"1".to_vec(), 0o640));
        write_like(&path, b"3", &fs::metadata(&path).unwrap()).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"3".to_vec(), 0o640));
        write(&path, b"4", 0o666).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"4".to_vec(), 0o666));
        assert!(write(&dir.path().join("f/x"), b"5", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a draft is left");
    }
}
