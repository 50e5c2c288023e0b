//! A relay for a machine whose caches may be away: it listens on the loopback, passes Nix's requests on, and says of a
//! cache that does not answer that it has nothing. Nix then builds, or asks the next cache.
//!
//! Nix by itself waits for such a cache in each of its processes, and Nix 2.8.0 ends with an error. The relay waits
//! once, for seconds, and then asks again twice a minute. No state, no credentials: it can be ended at any time.
//!
//! - [`caches`](Caches): which caches there are, and which of them a request is for
//! - `health`: whether a cache is asked
//! - `pass`: one request and its answer
//! - `body`: an answer on its way
//! - `activity`: whether anything is running
//! - [`serve`]: connections, and the end when nothing has come for a while

mod activity;
mod body;
mod caches;
mod health;
mod pass;
mod serve;

pub use caches::Caches;
pub use serve::serve;

/// What becomes of the caches while they are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// It did not answer, for this reason.
    Away(&'a str, String),
    /// It answers again.
    Back(&'a str),
    /// It answered a request for this path with this status, which no reader's request should get.
    Refused(&'a str, &'a str, u16),
}

/// Is told the news.
pub type Tell = Box<dyn Fn(News<'_>) + Send + Sync>;
