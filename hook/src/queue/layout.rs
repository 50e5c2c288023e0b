//! The directories of the queue and their owners.
//!
//! ```text
//! <state>/                       root             made by the first hook, or by `larder queue create`
//!   tmp/                         root, 0700       the hook writes a job here before it renames the job
//!   incoming/                    root:agent 0770  new jobs; the agent moves them out
//!   work/ parked/ roots/ state/  agent            files of the agent
//! ```
//!
//! The hook runs as root; the agent may run as another user. All code reaches the directories from a handle of the
//! state directory and follows no symbolic links, so that a link that the agent's user plants cannot redirect root. The
//! state directory itself belongs to root, so that no other user can replace its entries.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::failure::{Failure, Result};
use crate::time::now;

/// A directory below the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Jobs that a hook has not finished writing.
    Tmp,
    /// New jobs.
    Incoming,
    /// Jobs that the agent has taken.
    Work,
    /// Parked paths: the agent does not push them until a person decides about them.
    Parked,
    /// Links that protect queued paths from garbage collection.
    Roots,
    /// The lock and the records of the agent.
    State,
}

impl Place {
    /// All directories, in the order in which [`Layout::create`] makes them.
    pub const ALL: [Self; 6] =
        [Self::Tmp, Self::Incoming, Self::Work, Self::Parked, Self::Roots, Self::State];

    /// The name of the directory.
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

/// The name of the file in `state/` that holds the time when the queue was made, in seconds since 1970.
pub const SINCE: &str = "since";

/// The user that the agent runs as, if another user makes the directories.
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

    /// Opens the state directory at `path` and makes missing directories.
    ///
    /// With an `owner`, the agent's directories are given to that user; only root can do that.
    pub fn create(path: &Path, owner: Option<Owner>) -> Result<Self> {
        let layout = match Self::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path).map_err(Failure::at("make the queue", path))?;
                Self::open(path)?
            }
            other => other?,
        };
        for place in Place::ALL {
            layout.make(place)?;
            if let (Some(owner), true) = (owner, place != Place::Tmp) {
                layout.hand_over(place, owner)?;
            }
        }
        layout.note_since()?;
        Ok(layout)
    }

    /// Opens the state directory at `path`, and makes missing directories as [`Layout::create`] does. A directory is
    /// missing the first time, or while another process makes the queue.
    pub fn ready(path: &Path) -> Result<Self> {
        match Self::open(path) {
            Ok(layout) if Place::ALL.into_iter().all(|place| path.join(place.name()).is_dir()) => Ok(layout),
            _ => Self::create(path, None),
        }
    }

    /// Makes a directory, unless it exists.
    fn make(&self, place: Place) -> Result<()> {
        let mode = Mode::from_raw_mode(if place == Place::Tmp { 0o700 } else { 0o755 });
        match rustix::fs::mkdirat(&self.root, place.name(), mode) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Failure::at("make", &self.path_of(place))(errno)),
        }
    }

    /// Gives a directory to the agent. `incoming/` keeps its owner: the agent writes there as a member of the group.
    fn hand_over(&self, place: Place, owner: Owner) -> Result<()> {
        let (handle, path) = (self.dir(place)?, self.path_of(place));
        let uid = (place != Place::Incoming).then_some(Uid::from_raw(owner.uid));
        rustix::fs::fchown(&handle, uid, Some(Gid::from_raw(owner.gid)))
            .map_err(Failure::at("change the owner of", &path))?;
        if place == Place::Incoming {
            rustix::fs::fchmod(&handle, Mode::from_raw_mode(0o770))
                .map_err(Failure::at("change the mode of", &path))?;
        }
        Ok(())
    }

    /// Records when the queue was made. If several processes make the queue at the same time, the first one writes
    /// the file.
    fn note_since(&self) -> Result<()> {
        let path = self.path_of(Place::State).join(SINCE);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.dir(Place::State)?, SINCE, flags, Mode::from_raw_mode(0o644)) {
            Ok(file) => File::from(file)
                .write_all(format!("{}\n", now()).as_bytes())
                .map_err(Failure::at("write", &path)),
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Failure::at("write", &path)(errno)),
        }
    }

    /// The path of the state directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of one of the directories.
    pub(super) fn path_of(&self, place: Place) -> PathBuf {
        self.path.join(place.name())
    }

    /// Opens one of the directories. A symbolic link in its place is an error.
    pub fn dir(&self, place: Place) -> Result<OwnedFd> {
        rustix::fs::openat(&self.root, place.name(), DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(Failure::at("open", &self.path_of(place)))
    }

    /// The user id of the owner of one of the directories.
    pub fn owner(&self, place: Place) -> Result<u32> {
        let stat =
            rustix::fs::fstat(self.dir(place)?).map_err(Failure::at("look at", &self.path_of(place)))?;
        Ok(stat.st_uid)
    }
}
