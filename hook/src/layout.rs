//! The queue's directories, who owns them, and how files come into being below them.
//!
//! ```text
//! <state>/            root            made by whoever runs first, or by `larder queue create`
//!   tmp/              root, 0700      where the hook writes a job before it is renamed
//!   incoming/         root:agent 0770 new jobs; the agent moves them out
//!   work/ parked/ roots/ state/       the agent's own
//! ```
//!
//! The hook runs as root and the agent need not: everything below the state directory is reached from a handle of
//! it, without following links, so that a link planted by the agent's user leads root nowhere. The state directory
//! itself belongs to root, hence its entries cannot be replaced.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::fault::point;
use crate::{Failure, Result};

/// The directories below the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Half-written jobs of the hook.
    Tmp,
    /// New jobs.
    Incoming,
    /// Jobs that the agent has taken.
    Work,
    /// Paths that wait for somebody's decision.
    Parked,
    /// Links that keep queued paths from garbage collection.
    Roots,
    /// The agent's lock and records.
    State,
}

impl Place {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 6] =
        [Self::Tmp, Self::Incoming, Self::Work, Self::Parked, Self::Roots, Self::State];

    /// The directory's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmp => "tmp",
            Self::Incoming => "incoming",
            Self::Work => "work",
            Self::Parked => "parked",
            Self::Roots => "roots",
            Self::State => "state",
        }
    }
}

/// The file in `state/` that tells when the queue was made, in seconds since 1970.
pub const SINCE: &str = "since";

/// How the names of files begin that are being written.
const DRAFT: &str = ".new-";
/// A draft that nobody has touched for so long, in seconds, is left over from a process that was killed.
const ABANDONED: u64 = 24 * 3600;

/// The user that the agent runs as, where it is not the one who makes the directories.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// An open state directory.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    root: OwnedFd,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Layout {
    /// Opens the state directory at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let root =
            rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(Failure::at("open the queue", path))?;
        Ok(Self { path: path.to_owned(), root })
    }

    /// Opens it, making what is missing. With an `owner`, what is the agent's is handed to it; that takes root.
    pub fn create(path: &Path, owner: Option<Owner>) -> Result<Self> {
        let layout = match Self::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path).map_err(|error| {
                    Failure::new(format!("cannot make the queue `{}`", path.display()), error)
                })?;
                Self::open(path)?
            }
            other => other?,
        };
        for place in Place::ALL {
            let at = path.join(place.name());
            let mode = Mode::from_raw_mode(if place == Place::Tmp { 0o700 } else { 0o755 });
            match rustix::fs::mkdirat(&layout.root, place.name(), mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Failure::at("make", &at)(errno)),
            }
            let (Some(owner), true) = (owner, place != Place::Tmp) else { continue };
            let handle = layout.dir(place)?;
            let uid = (place != Place::Incoming).then_some(Uid::from_raw(owner.uid));
            rustix::fs::fchown(&handle, uid, Some(Gid::from_raw(owner.gid)))
                .map_err(Failure::at("hand over", &at))?;
            if place == Place::Incoming {
                let mode = Mode::from_raw_mode(0o770);
                rustix::fs::fchmod(&handle, mode).map_err(Failure::at("set the mode of", &at))?;
            }
        }
        layout.note_since()?;
        Ok(layout)
    }

    /// Writes down when the queue was made. Several hooks may be the first at the same time; one of them does it.
    fn note_since(&self) -> Result<()> {
        let at = self.path.join(Place::State.name()).join(SINCE);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.dir(Place::State)?, SINCE, flags, Mode::from_raw_mode(0o644)) {
            Ok(file) => {
                let text = format!("{}\n", crate::queue::now());
                write_all(file.as_fd(), text.as_bytes()).map_err(Failure::at("write", &at))
            }
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Failure::at("write", &at)(errno)),
        }
    }

    /// Opens it, and makes what is missing: the first time, or where another process is just making it.
    pub fn ready(path: &Path) -> Result<Self> {
        match Self::open(path) {
            Ok(layout) if Place::ALL.into_iter().all(|place| path.join(place.name()).is_dir()) => Ok(layout),
            _ => Self::create(path, None),
        }
    }

    /// The state directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle of one of its directories; never through a link.
    pub fn dir(&self, place: Place) -> Result<OwnedFd> {
        rustix::fs::openat(&self.root, place.name(), DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(Failure::at("open", &self.path.join(place.name())))
    }

    /// The names in one of its directories, sorted; names with a leading dot are left out.
    pub fn names(&self, place: Place) -> Result<Vec<String>> {
        let at = self.path.join(place.name());
        let mut names = Vec::new();
        let directory = rustix::fs::Dir::new(self.dir(place)?).map_err(Failure::at("list", &at))?;
        for entry in directory {
            let entry = entry.map_err(Failure::at("list", &at))?;
            // Names of ours are ASCII; anything else is not ours.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !name.starts_with('.') {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Writes a file so that it is there whole or not at all, and stays after a loss of power: written in
    /// `scratch`, synced, renamed into `place`, directory synced.
    pub fn write(&self, scratch: Place, place: Place, name: &str, text: &[u8]) -> Result<()> {
        let at = self.path.join(place.name()).join(name);
        let (from, to) = (self.dir(scratch)?, self.dir(place)?);
        let draft = format!("{DRAFT}{name}");
        point("write: before");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = match rustix::fs::openat(&from, &*draft, flags, mode) {
            // Left by one of us that was killed: names are not used twice at the same time.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&from, &*draft, AtFlags::empty())
                    .map_err(Failure::at("replace a draft of", &at))?;
                rustix::fs::openat(&from, &*draft, flags, mode)
            }
            other => other,
        }
        .map_err(Failure::at("write", &at))?;
        point("write: empty draft");
        // Whatever the umask of the caller: root and the agent's user read each other's files.
        let written = rustix::fs::fchmod(&file, mode)
            .and_then(|()| write_all(file.as_fd(), text))
            .inspect(|()| point("write: draft"))
            .and_then(|()| rustix::fs::fsync(&file))
            .inspect(|()| point("write: synced draft"))
            .and_then(|()| rustix::fs::renameat(&from, &*draft, &to, name))
            .inspect(|()| point("write: renamed"));
        if let Err(errno) = written {
            let _ = rustix::fs::unlinkat(&from, &*draft, AtFlags::empty());
            return Err(Failure::at("write", &at)(errno));
        }
        rustix::fs::fsync(&to).map_err(Failure::at("sync the directory of", &at))
    }

    /// Removes the drafts in `scratch` that nobody has touched for a day: their writers were killed.
    pub fn sweep_drafts(&self, scratch: Place) -> Result<()> {
        let at = self.path.join(scratch.name());
        let handle = self.dir(scratch)?;
        for entry in rustix::fs::Dir::read_from(&handle).map_err(Failure::at("list", &at))? {
            let entry = entry.map_err(Failure::at("list", &at))?;
            if !entry.file_name().to_bytes().starts_with(DRAFT.as_bytes()) {
                continue;
            }
            let touched = rustix::fs::statat(&handle, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
            let touched = touched.ok().and_then(|stat| u64::try_from(stat.st_mtime).ok());
            if touched.is_some_and(|touched| touched.abs_diff(crate::queue::now()) > ABANDONED) {
                // Another may have removed it just now.
                let _ = rustix::fs::unlinkat(&handle, entry.file_name(), AtFlags::empty());
            }
        }
        Ok(())
    }

    /// Reads a file and tells its owner's user id; `None` when there is none. Refuses links; of a file above 16 MiB it
    /// gives the first 16 MiB, which is no job.
    pub fn read(&self, place: Place, name: &str) -> Result<Option<(Vec<u8>, u32)>> {
        const LIMIT: u64 = 16 << 20;
        let at = self.path.join(place.name()).join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.dir(place)?, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(Failure::at("read", &at))?,
        };
        let stat = rustix::fs::fstat(&file).map_err(Failure::at("read", &at))?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::from(file), LIMIT), &mut bytes)
            .map_err(|error| Failure::new(format!("cannot read `{}`", at.display()), error))?;
        Ok(Some((bytes, stat.st_uid)))
    }

    /// Moves a file from one place to another under a new name, durably; whether it was still there.
    pub fn rename(&self, from: Place, name: &str, to: Place, new_name: &str) -> Result<bool> {
        let target = self.dir(to)?;
        point("rename: before");
        match rustix::fs::renameat(self.dir(from)?, name, &target, new_name) {
            Ok(()) => Ok(())
                .inspect(|()| point("rename: done"))
                .and_then(|()| rustix::fs::fsync(&target))
                .map(|()| true)
                .map_err(Failure::at("sync the directory of", &self.path.join(to.name()).join(new_name))),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Failure::at("take", &self.path.join(from.name()).join(name))(errno)),
        }
    }

    /// The user who owns one of its directories.
    pub fn owner(&self, place: Place) -> Result<u32> {
        let stat = rustix::fs::fstat(self.dir(place)?);
        stat.map(|stat| stat.st_uid).map_err(Failure::at("look at", &self.path.join(place.name())))
    }

    /// Removes a file or link; one that is gone already is no error.
    pub fn unlink(&self, place: Place, name: &str) -> Result<()> {
        self.remove(place, name).map(drop)
    }

    /// Removes a file or link; whether there was one.
    pub fn remove(&self, place: Place, name: &str) -> Result<bool> {
        point("remove: before");
        match rustix::fs::unlinkat(self.dir(place)?, name, AtFlags::empty()) {
            Ok(()) => {
                point("remove: done");
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Failure::at("remove", &self.path.join(place.name()).join(name))(errno)),
        }
    }
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
