//! The hook that Nix runs after each build, and the on-disk queue that it writes.
//!
//! The `larder-hook` binary only ever appends to the queue; the uploader takes from it with the same code. The
//! format is described in `docs/queue.md`.

pub mod drv;
pub mod environment;
pub mod fault;
pub mod gcroot;
pub mod job;
pub mod layout;
pub mod parked;
pub mod queue;
pub mod settings;
pub mod store_path;

use std::fmt;
use std::io;
use std::path::Path;

/// A failed operation on the queue or on what the hook reads: what was tried on which object, and what the system said.
#[derive(Debug)]
pub struct Failure {
    what: String,
    source: io::Error,
}

impl Failure {
    /// `what` names the operation and its object.
    pub fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }

    pub(crate) fn at(operation: &str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> Self {
        let what = format!("cannot {operation} `{}`", path.display());
        move |errno| Self::new(what, errno)
    }

    /// Whether there is something that is no regular file: a link, a directory, a socket.
    pub fn is_no_file(&self) -> bool {
        use rustix::io::Errno;
        let answers = [Errno::LOOP, Errno::NXIO, Errno::ISDIR];
        self.source
            .raw_os_error()
            .is_some_and(|code| answers.iter().any(|errno| errno.raw_os_error() == code))
    }

    /// The class of the system's answer.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for Failure {}

/// The result of operations on the queue.
pub type Result<T, E = Failure> = std::result::Result<T, E>;
