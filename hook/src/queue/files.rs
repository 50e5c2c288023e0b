//! Whole files in the directories of the queue: write, list, read, move, remove.
//!
//! A file is written as a draft, whose name begins with `.new-`, and then renamed. So a reader finds either the whole
//! file or no file, also after a loss of power.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{AtFlags, Dir, FsWord, Mode, OFlags};
use rustix::io::Errno;

use super::layout::{Layout, Place};
use crate::failure::{Failure, Result};
use crate::fault::point;
use crate::time::now;

/// The prefix of the names of drafts.
pub(super) const DRAFT: &str = ".new-";
/// The age in seconds above which a draft counts as abandoned: the process that wrote it was killed.
const ABANDONED: u64 = 24 * 3600;
/// The mode of every file, whatever the umask of the caller: root and the agent's user read each other's files.
const MODE: Mode = Mode::from_raw_mode(0o644);
/// The number of bytes that [`Layout::read`] reads at most.
const READ_LIMIT: u64 = 16 << 20;
/// The type of tmpfs, as `statfs` gives it (`TMPFS_MAGIC` of `linux/magic.h`).
const TMPFS: FsWord = 0x0102_1994;

impl Layout {
    /// Writes the file `name` in `place`, or replaces it.
    ///
    /// The draft is written in `scratch` and synced, renamed into `place`, and the directory is synced. On an error the
    /// draft is removed.
    pub fn write(&self, scratch: Place, place: Place, name: &str, text: &[u8]) -> Result<()> {
        self.write_draft(scratch, &draft_of(name), place, name, text, None::<fn()>)
    }

    /// Writes a file as [`Layout::write`] does. Calls `meanwhile` while the draft is synced: what `meanwhile` syncs is
    /// on disk before the file has its name.
    pub(super) fn write_after(
        &self,
        scratch: Place,
        place: Place,
        name: &str,
        text: &[u8],
        meanwhile: impl FnOnce() + Send,
    ) -> Result<()> {
        self.write_draft(scratch, &draft_of(name), place, name, text, Some(meanwhile))
    }

    /// Writes a file as [`Layout::write_after`] does, with a draft of this name. Two processes must not use the same
    /// name at the same time.
    pub(super) fn write_draft(
        &self,
        scratch: Place,
        draft: &str,
        place: Place,
        name: &str,
        text: &[u8],
        meanwhile: Option<impl FnOnce() + Send>,
    ) -> Result<()> {
        let path = self.path_of(place).join(name);
        let (from, to) = (self.dir(scratch)?, self.dir(place)?);
        point("write: before");
        let file = create_draft(&from, draft, &path)?;
        point("write: empty draft");
        let renamed = fill(&file, text, meanwhile)
            .and_then(|()| Ok(rustix::fs::renameat(&from, draft, &to, name)?))
            .inspect(|()| point("write: renamed"));
        if let Err(error) = renamed {
            let _ = rustix::fs::unlinkat(&from, draft, AtFlags::empty());
            return Err(Failure::at("write", &path)(error));
        }
        rustix::fs::fsync(&to).map_err(Failure::at("sync the directory of", &path))
    }

    /// Appends to the file `name` in `place`, which must exist. Nothing is synced: a loss of power may lose or damage the
    /// text. Only for records that may be lost.
    pub fn append(&self, place: Place, name: &str, text: &[u8]) -> Result<()> {
        let path = self.path_of(place).join(name);
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.dir(place)?, name, flags, Mode::empty()).map(File::from);
        file.map_err(io::Error::from)
            .and_then(|mut file| file.write_all(text))
            .map_err(Failure::at("append to", &path))
    }

    /// Removes the drafts in `scratch` that were last modified more than a day ago, or more than a day ahead.
    pub fn sweep_drafts(&self, scratch: Place) -> Result<()> {
        let path = self.path_of(scratch);
        let handle = self.dir(scratch)?;
        for entry in Dir::read_from(&handle).map_err(Failure::at("list", &path))? {
            let entry = entry.map_err(Failure::at("list", &path))?;
            if !entry.file_name().to_bytes().starts_with(DRAFT.as_bytes()) {
                continue;
            }
            let stat = rustix::fs::statat(&handle, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
            let modified = stat.ok().and_then(|stat| u64::try_from(stat.st_mtime).ok());
            if modified.is_some_and(|modified| modified.abs_diff(now()) > ABANDONED) {
                // Another process may have removed the draft at the same time; that is no error.
                let _ = rustix::fs::unlinkat(&handle, entry.file_name(), AtFlags::empty());
            }
        }
        Ok(())
    }

    /// The names in one of the directories, sorted. Names that begin with a dot, and names that are not UTF-8, are not
    /// entries of the queue.
    pub fn names(&self, place: Place) -> Result<Vec<String>> {
        let path = self.path_of(place);
        let mut names = Vec::new();
        for entry in Dir::new(self.dir(place)?).map_err(Failure::at("list", &path))? {
            let entry = entry.map_err(Failure::at("list", &path))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !name.starts_with('.') {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads a file: its bytes and the user id of its owner; `None` if the file does not exist.
    ///
    /// A symbolic link is an error. Of a file above 16 MiB, only the first 16 MiB are returned; such a file is no job.
    pub fn read(&self, place: Place, name: &str) -> Result<Option<(Vec<u8>, u32)>> {
        let path = self.path_of(place).join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.dir(place)?, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(Failure::at("read", &path))?,
        };
        let stat = rustix::fs::fstat(&file).map_err(Failure::at("read", &path))?;
        let mut bytes = Vec::new();
        File::from(file).take(READ_LIMIT).read_to_end(&mut bytes).map_err(Failure::at("read", &path))?;
        Ok(Some((bytes, stat.st_uid)))
    }

    /// Moves a file to another directory under a new name, and syncs that directory. Returns whether the file existed.
    pub fn rename(&self, from: Place, name: &str, to: Place, new_name: &str) -> Result<bool> {
        let target = self.dir(to)?;
        point("rename: before");
        match rustix::fs::renameat(self.dir(from)?, name, &target, new_name) {
            Ok(()) => {
                point("rename: done");
                let path = self.path_of(to).join(new_name);
                rustix::fs::fsync(&target).map_err(Failure::at("sync the directory of", &path))?;
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Failure::at("move", &self.path_of(from).join(name))(errno)),
        }
    }

    /// Removes a file or a link. A missing file is no error.
    pub fn unlink(&self, place: Place, name: &str) -> Result<()> {
        self.remove(place, name).map(drop)
    }

    /// Removes a file or a link. Returns whether it existed.
    pub fn remove(&self, place: Place, name: &str) -> Result<bool> {
        point("remove: before");
        match rustix::fs::unlinkat(self.dir(place)?, name, AtFlags::empty()) {
            Ok(()) => {
                point("remove: done");
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Failure::at("remove", &self.path_of(place).join(name))(errno)),
        }
    }
}

/// Creates the draft of the file `path` in the directory `scratch`.
///
/// An existing draft of that name is the rest of a process that was killed, and is replaced.
fn create_draft(scratch: &OwnedFd, draft: &str, path: &Path) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(scratch, draft, flags, MODE) {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(scratch, draft, AtFlags::empty())
                .map_err(Failure::at("replace a draft of", path))?;
            rustix::fs::openat(scratch, draft, flags, MODE)
        }
        other => other,
    };
    file.map(File::from).map_err(Failure::at("write", path))
}

/// The name of the draft of a file.
fn draft_of(name: &str) -> String {
    format!("{DRAFT}{name}")
}

/// Writes the whole text into a draft and syncs it. Calls `meanwhile` while it is synced.
fn fill(mut draft: &File, text: &[u8], meanwhile: Option<impl FnOnce() + Send>) -> io::Result<()> {
    rustix::fs::fchmod(draft, MODE)?;
    draft.write_all(text)?;
    point("write: draft");
    let sync = || rustix::fs::fsync(draft);
    match meanwhile {
        Some(meanwhile) => at_once(draft, meanwhile, sync)?,
        None => sync()?,
    }
    point("write: synced draft");
    Ok(())
}

/// Calls two functions that sync, and returns the value of `own`; `at` is a file of the file system that they sync.
///
/// They run at the same time: such syncs share one write of the file system's journal, and one after the other, each of
/// them would wait for the disk. On tmpfs a sync does nothing, and a thread would cost more than both.
pub(super) fn at_once<T>(at: impl AsFd, other: impl FnOnce() + Send, own: impl FnOnce() -> T) -> T {
    if rustix::fs::fstatfs(at).is_ok_and(|file_system| file_system.f_type == TMPFS) {
        other();
        return own();
    }
    let other = Mutex::new(Some(other));
    let call = || {
        let taken = other.lock().ok().and_then(|mut other| other.take());
        taken.into_iter().for_each(|other| other());
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, call);
        let value = own();
        // Without a thread, one function is called after the other.
        if thread.is_err() {
            call();
        }
        value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_functions_are_called_on_every_file_system() {
        for place in [std::env::temp_dir().as_path(), Path::new("/dev/shm")] {
            let Ok(handle) = File::open(place) else { continue };
            let mut other = 0;
            assert_eq!(at_once(&handle, || other += 1, || 7), 7, "{}", place.display());
            assert_eq!(other, 1, "{}", place.display());
        }
    }
}
