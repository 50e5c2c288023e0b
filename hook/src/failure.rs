//! The error type of the crate.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// The result of an operation on the queue or on a configuration file.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failed operation: its name, its object, and the error of the operating system.
///
/// The text contains the error of the operating system, which is also the [source](std::error::Error::source).
#[derive(Debug)]
pub struct Failure {
    operation: String,
    source: io::Error,
}

impl Failure {
    /// `operation` names the operation and its object, for example ``cannot list `/var/lib/larder/work` ``.
    pub fn new(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { operation: operation.into(), source: source.into() }
    }

    /// A function that makes an error of the operating system into a failure of `verb` on `path`.
    pub(crate) fn at<E: Into<io::Error>>(verb: &str, path: &Path) -> impl FnOnce(E) -> Self {
        move |error| Self::new(format!("cannot {verb} `{}`", path.display()), error)
    }

    /// Whether the operation failed because the path names a link, a directory or a socket instead of a regular file.
    pub fn is_no_file(&self) -> bool {
        [Errno::LOOP, Errno::NXIO, Errno::ISDIR]
            .iter()
            .any(|errno| self.source.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// The kind of the error of the operating system.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.source)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn the_error_of_the_system_is_in_the_text_and_is_the_source() {
        let failure = Failure::at("read", Path::new("/q/work/x"))(Errno::LOOP);
        let source = failure.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
        assert_eq!(source.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(failure.to_string(), format!("cannot read `/q/work/x`: {source}"));
        assert!(failure.is_no_file());
        assert!(!Failure::at("read", Path::new("/"))(Errno::NOENT).is_no_file());
    }
}
