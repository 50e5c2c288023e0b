//! What a collector does with what it has found.

use super::acting::{Act, Ended};
use super::garbage::Garbage;
use super::marking::Marking;
use super::removal::purge;
use super::undo::expire;
use super::worker::Collector;
use crate::base::error::Result;
use crate::format::object_keys;
use crate::upkeep::inventory::Records;

impl Collector<'_> {
    /// Takes what `marking` has found. [`Collector::take_over`] comes before the marking.
    ///
    /// # Errors
    /// When the session is over. Other errors give the collection up: they are in the result.
    pub async fn collect(&self, marking: &Marking, by: &str, records: &mut dyn Records) -> Result<Ended> {
        let bucket = self.session.fenced();
        marking.record_orphans(&*bucket).await?;
        marking.compact_needs(&*bucket).await?;
        expire(&*bucket, self.inputs.nar_grace).await?;
        if marking.garbage.is_empty() {
            let id = object_keys::new_writer();
            return Ok(Ended { id, paths: 0, objects: 0, spared: 0, error: None });
        }
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
        let ended = Act::new(self, marking, garbage, by, records).removal(for_good).run().await?;
        if for_good && ended.error.is_none() {
            purge(&self.session.deleting(), &marking.catalog, garbage).await?;
        }
        Ok(ended)
    }
}
