//! Events of a relay that a person may want to know.

/// An event of one cache. Each variant has the name of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The cache cannot be reached, or did not answer in time. Its last request was answered, or it had none.
    Unavailable {
        /// The cache.
        cache: &'a str,
        /// Why the request failed.
        reason: String,
    },
    /// The cache answers again.
    Available {
        /// The cache.
        cache: &'a str,
    },
    /// The relay hides an answer of the cache: it tells Nix that the path is absent, because Nix would fail a build. The
    /// answer before was not hidden.
    Hidden {
        /// The cache.
        cache: &'a str,
        /// The path of the request, below the cache's URL.
        path: &'a str,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// Receives the events. Several threads call it at the same time.
pub type Observer = Box<dyn Fn(Event<'_>) + Send + Sync>;
