//! A relay between Nix and caches that may be unavailable. It listens on the loopback interface and forwards Nix's
//! requests. While a cache cannot be reached, the relay says that the cache has nothing. Nix then builds, or asks the next
//! cache.
//!
//! Without the relay, each process of Nix waits for such a cache, and Nix 2.8.0 ends with an error. The relay waits
//! once, for seconds, and then asks the cache again twice a minute. It has no state and no credentials, so it can be
//! ended at any time.
//!
//! - [`serve`]: accepts connections, and ends after a time without requests
//! - `respond`: answers one request
//! - [`caches`](Caches): finds the cache that a request is for
//! - `health`: decides whether a request is sent to a cache
//! - `body`: passes the body of an answer on
//! - `host`: refuses requests that a web page makes under a name of its own
//! - `connections`: limits the number of open connections
//! - `activity`: counts running requests
//! - [`event`](Event): what an observer is told

mod activity;
mod body;
mod caches;
mod connections;
mod event;
mod health;
mod host;
mod respond;
mod serve;

pub use caches::Caches;
pub use event::{Event, Observer};
pub use serve::serve;
