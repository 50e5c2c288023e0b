//! Creation of the directories of a queue, and correction of the modes of an existing queue.
//!
//! Modes do not depend on the umask of the caller: a queue that root makes with the umask 077 is open to the agent.
//! `state/` is closed to all users but its owner and root, because everybody who can open that directory can take the
//! lock of the agent.

use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;

use super::files::DRAFT;
use super::layout::{Layout, Owner, Place};
use crate::directories::make_directories;
use crate::failure::{Failure, Result};
use crate::time::now;

/// The name of the file in `state/` that holds the time when the queue was made, in seconds since 1970.
pub const SINCE: &str = "since";

/// The mode of a directory that everybody may read.
const OPEN: u32 = 0o755;
/// The mode of a directory for its owner alone.
const CLOSED: u32 = 0o700;
/// The mode of `incoming/` if the agent runs as another user: the agent writes there as a member of the group.
const SHARED: u32 = 0o770;

impl Layout {
    /// Opens the state directory at `path`, makes missing directories, and corrects the modes of the others.
    ///
    /// With an `owner`, the agent's directories are given to that user; only root can do that. Directories that belong
    /// to another user than the caller stay as they are, unless the caller is root.
    pub fn create(path: &Path, owner: Option<Owner>) -> Result<Self> {
        let layout = match Self::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                make_directories(path).map_err(Failure::at("make the queue", path))?;
                Self::open(path)?
            }
            other => other?,
        };
        if owner.is_some() {
            rustix::fs::fchmod(&layout.root, Mode::from_raw_mode(OPEN as _))
                .map_err(Failure::at("change the mode of", path))?;
        }
        let is_new = !layout.is_complete();
        for place in Place::ALL {
            layout.make(place, owner)?;
            // Before the other directories: a queue with all its directories has the file, also after a crash.
            if is_new && place == Place::State {
                layout.note_since()?;
            }
        }
        Ok(layout)
    }

    /// Opens the state directory at `path`, and makes missing directories as [`Layout::create`] does. A directory is
    /// missing the first time, or while another process makes the queue.
    pub fn ready(path: &Path) -> Result<Self> {
        match Self::open(path) {
            Ok(layout) if layout.is_complete() => Ok(layout),
            _ => Self::create(path, None),
        }
    }

    /// Whether no directory is missing.
    fn is_complete(&self) -> bool {
        Place::ALL.into_iter().all(|place| self.path_of(place).is_dir())
    }

    /// Makes a directory unless it exists, and gives it its owner and its mode.
    fn make(&self, place: Place, owner: Option<Owner>) -> Result<()> {
        let path = self.path_of(place);
        let is_new = match rustix::fs::mkdirat(&self.root, place.name(), Mode::from_raw_mode(CLOSED as _)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(Failure::at("make", &path)(errno)),
        };
        let stat = rustix::fs::statat(&self.root, place.name(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Failure::at("look at", &path))?;
        let caller = rustix::process::geteuid();
        let mode = match (place, owner) {
            (Place::Incoming, Some(_)) => SHARED,
            // The queue may have been made for an agent of another user.
            (Place::Incoming, None) if !is_new => return Ok(()),
            (Place::Tmp | Place::State, _) => CLOSED,
            _ => OPEN,
        };
        let is_right = owner.is_none() && stat.st_mode & 0o777 == mode as rustix::fs::RawMode;
        if is_right || !(caller.is_root() || caller.as_raw() == stat.st_uid) {
            return Ok(());
        }
        let handle = self.dir(place)?;
        if let (Some(owner), true) = (owner, place != Place::Tmp) {
            // `incoming/` keeps its owner.
            let uid = (place != Place::Incoming).then_some(Uid::from_raw(owner.uid));
            rustix::fs::fchown(&handle, uid, Some(Gid::from_raw(owner.gid)))
                .map_err(Failure::at("change the owner of", &path))?;
        }
        rustix::fs::fchmod(&handle, Mode::from_raw_mode(mode as _))
            .map_err(Failure::at("change the mode of", &path))
    }

    /// Records when the queue was made, unless that is recorded. If several processes make the queue at the same time,
    /// each of them writes a whole file, and the last file stays.
    fn note_since(&self) -> Result<()> {
        if self.read(Place::State, SINCE)?.is_some() {
            return Ok(());
        }
        let draft = format!("{DRAFT}{SINCE}-{}", std::process::id());
        self.write_draft(
            Place::State,
            &draft,
            Place::State,
            SINCE,
            format!("{}\n", now()).as_bytes(),
            None::<fn()>,
        )
    }
}
