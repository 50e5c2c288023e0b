//! Events of a relay that a person may want to know.

/// An event of one cache. Each variant has the name of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The cache did not answer. Its last request was answered, or it had none.
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
    /// The cache answered with a status that no request of a reader should get.
    Refused {
        /// The cache.
        cache: &'a str,
        /// The path of the request, below the cache's URL.
        path: &'a str,
        /// The status.
        status: u16,
    },
}

/// Receives the events. Several threads call it at the same time.
pub type Observer = Box<dyn Fn(Event<'_>) + Send + Sync>;
