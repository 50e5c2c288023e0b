//! Durable files that readers see completely or not at all, even after a loss of power.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use larder_hook::directories::{make_directories, sync_parent};
use rand_core::{OsRng, RngCore};

use crate::bucket::interface::ObjectMeta;

/// The directory of unfinished files, below the root.
pub(crate) const TEMPORARY: &str = ".larder-tmp";
/// Unfinished files that did not change for this long are left over from a killed process.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// The root of a bucket and its directory of unfinished files.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    swept: OnceLock<()>,
}

impl Tree {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, swept: OnceLock::new() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Fails if the root itself is missing, for example on a disk that is not mounted.
    pub(crate) fn require_root(&self) -> io::Result<()> {
        fs::metadata(&self.root).map(|_| ())
    }

    /// Locks for a conditional write. Waits until all other writes have ended.
    pub(crate) fn lock(&self) -> io::Result<File> {
        let file = self.lock_file()?;
        file.lock()?;
        Ok(file)
    }

    /// Locks for an unconditional write. Other unconditional writes may run at the same time.
    pub(crate) fn lock_shared(&self) -> io::Result<File> {
        let file = self.lock_file()?;
        file.lock_shared()?;
        Ok(file)
    }

    fn lock_file(&self) -> io::Result<File> {
        let path = self.temporary_directory()?.join("lock");
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
    }

    fn temporary_directory(&self) -> io::Result<PathBuf> {
        let directory = self.root.join(TEMPORARY);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if self.swept.set(()).is_ok()
            && let Some(now) = self.now()
        {
            sweep(&directory, now);
        }
        Ok(directory)
    }

    /// A new, empty unfinished file.
    pub(crate) fn temporary(&self) -> io::Result<(Temporary, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{:016x}-{}", OsRng.next_u64(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = self.temporary_directory()?.join(name);
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        Ok((Temporary { root: self.root.clone(), path }, file))
    }

    /// The time of the clock that dates the files. A file system on a network may have a clock of its own.
    pub(crate) fn now(&self) -> Option<SystemTime> {
        let (_temporary, file) = self.temporary().ok()?;
        file.metadata().and_then(|meta| meta.modified()).ok()
    }

    /// An unfinished file with these bytes, ready to be moved to its key.
    pub(crate) fn write_temporary(&self, body: &[u8]) -> io::Result<Temporary> {
        let (temporary, mut file) = self.temporary()?;
        file.write_all(body)?;
        finish(&file)?;
        Ok(temporary)
    }
}

/// Makes the bytes durable and lets everybody read them.
pub(crate) fn finish(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()
}

/// The entity tag of a file.
pub(super) fn etag(meta: &fs::Metadata) -> String {
    // Every write creates a new file. No two writes have all of these numbers in common.
    format!("\"{:x}-{:x}-{:x}-{:x}\"", meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
}

/// The properties of an object in a file. `now` is the time by [`Tree::now`], which writes a file.
pub(super) fn describe(key: String, meta: &fs::Metadata, now: Option<SystemTime>) -> ObjectMeta {
    let age = ObjectMeta::age(now, meta.modified().ok());
    ObjectMeta { key, size: meta.len(), etag: Some(etag(meta)), age }
}

/// An unfinished file. Dropping it removes the file, unless the file was moved to a key.
#[derive(Debug)]
pub(crate) struct Temporary {
    root: PathBuf,
    path: PathBuf,
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the file to its key and replaces an existing file.
    pub(crate) fn replace(self, key: &str) -> io::Result<()> {
        let target = self.target(key)?;
        fs::rename(&self.path, &target)?;
        sync_parent(&target)
    }

    /// Moves the file to its key unless a file exists there. Returns whether the file was moved. The caller holds the lock.
    pub(crate) fn link(self, key: &str) -> io::Result<bool> {
        let target = self.target(key)?;
        match fs::hard_link(&self.path, &target) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            // The file system has no hard links. The lock excludes other writers.
            Err(_) if fs::symlink_metadata(&target).is_ok() => return Ok(false),
            Err(_) => fs::rename(&self.path, &target)?,
        }
        sync_parent(&target)?;
        Ok(true)
    }

    fn target(&self, key: &str) -> io::Result<PathBuf> {
        let target = self.root.join(key);
        if let Some(parent) = target.parent()
            && parent != self.root
        {
            make_directories(parent)?;
        }
        Ok(target)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is no file to remove. A later sweep removes a file that stays.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes old unfinished files. Ignores errors. The clock of the file system tells their age: the clock of this machine
/// may be wrong, and another machine may be writing them.
fn sweep(directory: &Path, now: SystemTime) {
    let old = |path: &Path| {
        let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
        let age = modified.ok().and_then(|modified| now.duration_since(modified).ok());
        age.is_some_and(|age| age > ABANDONED)
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name() != "lock" && old(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
