//! A collector with its session.

use std::time::Duration;

use super::acting::{Act, Ended};
use super::garbage::Garbage;
use super::marking::{Inputs, Marking};
use super::undo::expire;
use crate::base::error::Result;
use crate::protocol::gate::Stage;
use crate::session::CollectorSession;
use crate::upkeep::inventory::Records;

/// The number of times that a collector looks within the time between two renewals of leases.
const LOOKS: u32 = 30;

/// What a collector tells about its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It waits for other collectors: their number.
    WaitsForCollectors(usize),
    /// It ends a collection that an earlier collector has left.
    TakesOver {
        /// Whether it goes on deleting. Otherwise it gives the collection up.
        is_final: bool,
    },
    /// It waits until all writers know of a stage.
    WaitsForWriters {
        /// The stage.
        stage: Stage,
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
    /// Takes what `marking` has found. [`Collector::begin`] comes before the marking.
    ///
    /// # Errors
    /// When the session is over. Other errors give the collection up: they are in the result.
    pub async fn collect(&self, marking: &Marking, by: &str, records: &mut dyn Records) -> Result<Ended> {
        let bucket = self.session.fenced();
        marking.record_orphans(&*bucket).await?;
        expire(&*bucket, self.inputs.nar_grace).await?;
        Act::new(self, marking, &marking.garbage, by, records).run().await
    }

    /// Removes paths that a person has named, whatever keeps them. Unless it is `for_good`, the removal can be undone.
    ///
    /// # Errors
    /// As for [`Collector::collect`].
    pub async fn remove(
        &self,
        marking: &Marking,
        garbage: &Garbage,
        by: &str,
        for_good: bool,
        records: &mut dyn Records,
    ) -> Result<Ended> {
        Act::new(self, marking, garbage, by, records).removal(for_good).run().await
    }

    /// Waits a little. Fails when the session is over.
    pub(super) async fn pause(&self) -> Result<()> {
        if !self.session.holds() {
            return Err(self.session.over());
        }
        tokio::time::sleep(self.session.limits().renewal / LOOKS).await;
        Ok(())
    }
}
