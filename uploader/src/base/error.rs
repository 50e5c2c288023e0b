//! One error type for the whole uploader.
//!
//! An error names the operation and its object, says what went wrong, and, where there is one, the way out. Two
//! classifications travel with it: [`Retry`] tells the agent what to do next, [`Area`] becomes the exit code of a
//! command. Messages are lower-case fragments without a full stop; literals stand in back-ticks. No message may hold
//! a secret.

use std::fmt;
use std::sync::Arc;

/// The result of every fallible operation of the uploader.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error has underneath: another error, or a text.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What trying again would bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same attempt fails in the same way until somebody changes something.
    Permanent,
    /// The other side was busy, away or slow: the same attempt may succeed later.
    Transient,
    /// The attempt may or may not have taken effect, or the cause is not understood: try again, and assume nothing.
    Unknown,
}

/// The part of the world where the error arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// None of the others.
    General,
    /// The command line.
    Usage,
    /// The configuration, or a file that it names.
    Config,
    /// Credentials: absent, unreadable, or refused by the server.
    Credentials,
    /// The local Nix store or its daemon.
    Store,
    /// The bucket or the way to it.
    Bucket,
    /// The queue's directory.
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
    /// `what` names operation and object: ``cannot read `nar/…` from `s3://cache` ``.
    pub fn new(area: Area, retry: Retry, what: impl Into<String>) -> Self {
        Self { area, retry, what: what.into(), cause: None, hint: None }
    }

    /// A permanent error.
    pub fn permanent(area: Area, what: impl Into<String>) -> Self {
        Self::new(area, Retry::Permanent, what)
    }

    /// A transient error.
    pub fn transient(area: Area, what: impl Into<String>) -> Self {
        Self::new(area, Retry::Transient, what)
    }

    /// Adds the cause: another error, which becomes the [source](std::error::Error::source), or a text.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into().into());
        self
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Where it arose.
    pub fn area(&self) -> Area {
        self.area
    }

    /// What trying again would bring.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// The way out, where there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// Shows the operation and all causes in one line.
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

/// An error and its sources in one line, without saying anything twice.
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
