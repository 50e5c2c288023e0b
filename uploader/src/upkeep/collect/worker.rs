//! A collector with its session, and what it tells about its work.

use std::time::Duration;

use super::marking::Inputs;
use crate::base::error::Result;
use crate::session::CollectorSession;

/// The number of times that a collector looks within the time between two renewals of leases.
const LOOKS: u32 = 30;

/// What a collector tells about its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It ends a collection that an earlier collector has left.
    TakesOver {
        /// Whether it goes on deleting. Otherwise it gives the collection up.
        is_final: bool,
    },
    /// It waits until all writers know of a stage.
    WaitsForWriters {
        /// Whether nothing can be rescued any more in this stage.
        is_closing: bool,
        /// The number of writers that do not know of it yet.
        writers: usize,
    },
    /// It looks for the last time.
    LooksAgain,
    /// It has deleted so many of all objects.
    Deleted {
        /// The objects that are deleted.
        done: usize,
        /// All objects that go.
        all: usize,
    },
    /// It waits until a late request cannot be carried out any more.
    WaitsOut(Duration),
}

/// A collector.
pub struct Collector<'a> {
    /// Its session.
    pub session: &'a CollectorSession,
    /// By what it decides.
    pub inputs: &'a Inputs,
    /// Is told what happens.
    pub news: &'a (dyn Fn(News) + Send + Sync),
}

impl Collector<'_> {
    /// Waits a little. Fails when the session is over.
    pub(super) async fn pause(&self) -> Result<()> {
        if !self.session.holds() {
            return Err(self.session.over());
        }
        tokio::time::sleep(self.session.limits().renewal / LOOKS).await;
        Ok(())
    }
}
