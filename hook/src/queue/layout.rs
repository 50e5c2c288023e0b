//! The directories of the queue and their owners.
//!
//! ```text
//! <state>/                 root, 0755       made by the first hook, or by `larder queue create`
//!   tmp/                   root, 0700       the hook writes a job here before it renames the job
//!   incoming/              root:agent 0770  new jobs; the agent moves them out
//!   work/ parked/ roots/   agent, 0755      files of the agent
//!   state/                 agent, 0700      the lock and the records of the agent
//! ```
//!
//! The hook runs as root; the agent may run as another user. All code reaches the directories from a handle of the
//! state directory and follows no symbolic links, so that a link that the agent's user plants cannot redirect root. The
//! state directory itself belongs to root, so that no other user can replace its entries.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::failure::{Failure, Result};

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
        [Self::State, Self::Tmp, Self::Incoming, Self::Work, Self::Parked, Self::Roots];

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
    pub(super) root: OwnedFd,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Layout {
    /// Opens the state directory at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let root =
            rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(Failure::at("open the queue", path))?;
        Ok(Self { path: path.to_owned(), root })
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
