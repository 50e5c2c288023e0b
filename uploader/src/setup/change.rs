//! Changes to files below a root. Each change is made whole or not at all.

use std::path::{Path, PathBuf};

use larder_hook::directories::make_directories;

use crate::base::error::{Area, Cause, Error, Result};
use crate::base::whole_file;

/// A change. Its paths are absolute on the machine that is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates a directory that everybody may read.
    Directory(String),
    /// Creates or replaces a file.
    File {
        /// Its path.
        path: String,
        /// The contents before; `None` if the file does not exist.
        before: Option<Vec<u8>>,
        /// The contents after.
        after: Vec<u8>,
        /// The mode of a new file. A replaced file keeps its mode and owner.
        mode: u32,
    },
    /// Creates a symbolic link.
    Link {
        /// Its path.
        path: String,
        /// Its target.
        target: String,
    },
    /// Removes a file or link.
    Remove(String),
    /// Removes a directory if it is empty.
    RemoveDirectory(String),
}

/// The files of this machine, or of a machine whose root is a directory.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The files below a root; `/` for this machine.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The path on this machine for a path of the tree.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether the tree is this machine.
    pub fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The contents of a file; `None` if it does not exist.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match std::fs::read(self.at(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", path, error)),
        }
    }

    /// The contents of a file as text; `None` if it does not exist.
    pub fn read_text(&self, path: &str) -> Result<Option<String>> {
        let bytes = self.read(path)?;
        bytes.map(String::from_utf8).transpose().map_err(|error| self.failed("read", path, error))
    }

    /// The target of a link; `None` if the path is not a link.
    pub fn link(&self, path: &str) -> Option<String> {
        std::fs::read_link(self.at(path)).ok().map(|target| target.display().to_string())
    }

    /// Whether the path exists, as a file, directory or link.
    pub fn exists(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.at(path)).is_ok()
    }

    /// The group that may enter a directory which is closed to others, by name or number. `None` if everybody may enter
    /// the directory, if only root may, or if it does not exist.
    pub fn exclusive_group(&self, path: &str) -> Result<Option<String>> {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = std::fs::metadata(self.at(path)) else { return Ok(None) };
        let (open, group) = (metadata.mode() & 0o001 != 0, metadata.gid());
        if open || group == 0 {
            return Ok(None);
        }
        let groups = self.read_text("/etc/group")?.unwrap_or_default();
        let name = groups.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            (fields.get(2)?.parse() == Ok(group)).then(|| fields[0].to_owned())
        });
        Ok(Some(name.unwrap_or_else(|| group.to_string())))
    }

    fn failed(&self, operation: &str, path: &str, error: impl Into<Cause>) -> Error {
        Error::permanent(Area::General, format!("cannot {operation} `{}`", self.at(path).display()))
            .because(error)
            .hint("`larder setup` changes the machine: run it as root; it does not repeat finished steps")
    }

    /// Makes a change. Removing a file that does not exist is not an error.
    pub fn make(&self, change: &Change) -> Result<()> {
        match change {
            Change::Directory(path) => {
                make_directories(&self.at(path)).map_err(|error| self.failed("make", path, error))
            }
            Change::File { path, before, after, mode } => self
                .write(path, after, *mode, before.is_some())
                .map_err(|error| self.failed("write", path, error)),
            Change::Link { path, target } => std::os::unix::fs::symlink(target, self.at(path))
                .map_err(|error| self.failed("link", path, error)),
            Change::Remove(path) => match std::fs::remove_file(self.at(path)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(self.failed("remove", path, error))
                }
                _ => Ok(()),
            },
            // The directory stays if it has files of other owners.
            Change::RemoveDirectory(path) => {
                let _ = std::fs::remove_dir(self.at(path));
                Ok(())
            }
        }
    }

    /// Writes a file. With `keep`, the new file gets the mode and owner of the old one.
    fn write(&self, path: &str, contents: &[u8], mode: u32, keep: bool) -> std::io::Result<()> {
        let at = self.at(path);
        match std::fs::metadata(&at).ok().filter(|_| keep) {
            Some(old) => whole_file::write_like(&at, contents, &old),
            None => whole_file::write(&at, contents, mode),
        }
    }
}
