//! Changes to files below a root, each made so that it is there whole or not at all.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::base::error::{Area, Cause, Error, Result};

/// One change. Paths are those of the machine that is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A directory is made.
    Directory(String),
    /// A file is written, where there was another or none.
    File {
        /// Its path.
        path: String,
        /// What stands there now.
        before: Option<Vec<u8>>,
        /// What is to stand there.
        after: Vec<u8>,
        /// Its mode.
        mode: u32,
    },
    /// A link is made.
    Link {
        /// Its path.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A file or link is removed.
    Remove(String),
    /// A directory is removed if it is empty.
    RemoveDirectory(String),
}

/// A machine's files, or those of one that lies below a directory.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Below a root; `/` for this machine.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where a path of the machine lies.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether it is this machine.
    pub fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A file's contents; `None` where there is none.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match std::fs::read(self.at(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", path, error)),
        }
    }

    /// The same as text.
    pub fn read_text(&self, path: &str) -> Result<Option<String>> {
        let bytes = self.read(path)?;
        bytes.map(String::from_utf8).transpose().map_err(|error| self.failed("read", path, error))
    }

    /// Where a link leads; `None` where there is none.
    pub fn link(&self, path: &str) -> Option<String> {
        std::fs::read_link(self.at(path)).ok().map(|target| target.display().to_string())
    }

    /// Whether there is anything of that name.
    pub fn exists(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.at(path)).is_ok()
    }

    /// The group that alone may enter a directory besides its owner, by name or number; `None` where everybody may, or
    /// where there is none.
    pub fn closed_to(&self, path: &str) -> Result<Option<String>> {
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

    fn failed(&self, what: &str, path: &str, error: impl Into<Cause>) -> Error {
        Error::permanent(Area::General, format!("cannot {what} `{}`", self.at(path).display()))
            .because(error)
            .hint(
                "`larder setup` changes the machine: run it as root; what is done already is not done again",
            )
    }

    /// Makes a change.
    pub fn make(&self, change: &Change) -> Result<()> {
        match change {
            Change::Directory(path) => {
                std::fs::create_dir(self.at(path)).map_err(|error| self.failed("make", path, error))
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
            // What others have put there stays, and the directory with it.
            Change::RemoveDirectory(path) => {
                let _ = std::fs::remove_dir(self.at(path));
                Ok(())
            }
        }
    }

    /// Beside its place first; a file that was there keeps its mode and owner.
    fn write(&self, path: &str, contents: &[u8], mode: u32, keep: bool) -> std::io::Result<()> {
        let at = self.at(path);
        let name = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let draft = at.with_file_name(format!(".{name}.larder-new"));
        let _ = std::fs::remove_file(&draft);
        let old = std::fs::metadata(&at).ok().filter(|_| keep);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(contents)?;
        let mode = old.as_ref().map_or(mode, |old| old.permissions().mode() & 0o7777);
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        if let Some(old) = &old {
            use std::os::unix::fs::MetadataExt;
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.sync_all()?;
        std::fs::rename(&draft, &at)
    }
}
