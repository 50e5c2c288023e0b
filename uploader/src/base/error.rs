//! The error type of the uploader.
//!
//! An error names the operation and its object, the cause, and a way out if there is a way out. Two classifications
//! belong to it: [`Retry`] tells the agent whether to try again, and [`Area`] determines the exit code of a command.
//! Messages are lower-case fragments without a full stop. Back-ticks stand around literals. A message never contains a
//! secret.

use std::fmt;
use std::sync::Arc;

/// The result of a fallible operation of the uploader.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an error: another error, or a text.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The expected result of trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same attempt fails in the same way until somebody changes the configuration, the store or the bucket.
    Permanent,
    /// The other side was busy, unreachable or slow. The same attempt may succeed later.
    Transient,
    /// The attempt may have taken effect, or the cause is unknown. Try again, and do not assume either result.
    Unknown,
}

/// The area in which the error occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// None of the other areas.
    General,
    /// The command line.
    Usage,
    /// The configuration, or a file that the configuration names.
    Config,
    /// Credentials that are absent, unreadable, or refused by the server.
    Credentials,
    /// The local Nix store or its daemon.
    Store,
    /// The bucket, or the network between this machine and the bucket.
    Bucket,
    /// The directory of the queue.
    Queue,
}

/// An error with its operation, object, cause and way out.
#[derive(Clone, Debug)]
pub struct Error {
    area: Area,
    retry: Retry,
    what: String,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
    hint: Option<String>,
}

impl Error {
    /// Makes an error. `what` names the operation and its object: ``cannot read `nar/…` from `s3://cache` ``.
    pub fn new(area: Area, retry: Retry, what: impl Into<String>) -> Self {
        Self { area, retry, what: what.into(), cause: None, hint: None }
    }

    /// Makes a permanent error.
    pub fn permanent(area: Area, what: impl Into<String>) -> Self {
        Self::new(area, Retry::Permanent, what)
    }

    /// Makes a transient error.
    pub fn transient(area: Area, what: impl Into<String>) -> Self {
        Self::new(area, Retry::Transient, what)
    }

    /// Sets the cause: another error, which becomes the [source](std::error::Error::source), or a text.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into().into());
        self
    }

    /// Sets the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The area in which the error occurred.
    pub fn area(&self) -> Area {
        self.area
    }

    /// The expected result of trying again.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// The way out, if there is a way out.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// Shows the operation and all causes in one line. The way out is not part of the text.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.cause {
            Some(cause) => write!(f, ": {}", chain(&**cause)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// The text of an error and of all its sources in one line. A source whose text appears already is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn an_error_keeps_its_sources_and_shows_each_once() {
        let system = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let inner = Error::transient(Area::Store, "cannot read `a`").because(system);
        let outer = Error::permanent(Area::Queue, "cannot queue `b`").because(inner);
        assert_eq!(outer.to_string(), "cannot queue `b`: cannot read `a`: permission denied");
        let source = outer.source().and_then(|source| source.downcast_ref::<Error>()).unwrap();
        assert_eq!((source.area(), source.retry()), (Area::Store, Retry::Transient));
        let system = source.source().and_then(|source| source.downcast_ref::<std::io::Error>()).unwrap();
        assert_eq!(system.kind(), std::io::ErrorKind::PermissionDenied);
        let text =
            Error::permanent(Area::Config, "cannot use `c`").because("it is empty").because("it is a folder");
        assert_eq!(text.to_string(), "cannot use `c`: it is a folder");
    }
}
