//! Writing files such that readers see all of them or nothing, also after a loss of power.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rand_core::{OsRng, RngCore};

/// Where unfinished files are, below the root.
pub(crate) const TEMPORARY: &str = ".larder-tmp";
/// Unfinished files that nobody has touched for this long are left over from a process that was killed.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// The root of a bucket and its place for unfinished files.
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

    /// Fails where the root itself is missing, such as a disk that is not mounted.
    pub(crate) fn require_root(&self) -> io::Result<()> {
        fs::metadata(&self.root).map(|_| ())
    }

    /// Makes conditional writes, and waits for all other writes to end.
    pub(crate) fn lock(&self) -> io::Result<File> {
        let file = self.lock_file()?;
        file.lock()?;
        Ok(file)
    }

    /// Makes unconditional writes, beside others of them.
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
        if self.swept.set(()).is_ok() {
            sweep(&directory);
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

    /// An unfinished file with these bytes, ready to be moved.
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

/// An unfinished file, which is removed unless it is moved.
#[derive(Debug)]
pub(crate) struct Temporary {
    root: PathBuf,
    path: PathBuf,
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the file to its key, over whatever stands there.
    pub(crate) fn replace(self, key: &str) -> io::Result<()> {
        let target = self.target(key)?;
        fs::rename(&self.path, &target)?;
        sync_parent(&target)
    }

    /// Moves the file to its key where nothing stands; says whether it did. The caller holds the lock.
    pub(crate) fn link(self, key: &str) -> io::Result<bool> {
        let target = self.target(key)?;
        match fs::hard_link(&self.path, &target) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            // A file system without hard links: the lock keeps other writers away.
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
        // After a rename there is nothing left; a file that stays is swept later.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a directory and those above it, open to readers and durable.
pub(crate) fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directories(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
            sync_parent(path)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(io::Error::new(ErrorKind::NotADirectory, format!("`{}` is no directory", path.display())))
        }
        Err(error) => Err(error),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes what was left over, as far as that is possible.
fn sweep(directory: &Path) {
    let old = |path: &Path| {
        let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
        let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.is_some_and(|age| age > ABANDONED)
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name() != "lock" && old(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
