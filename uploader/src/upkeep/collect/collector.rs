//! What a collector does with what it has found.

use super::acting::{Act, Ended};
use super::garbage::Garbage;
use super::marking::Marking;
use super::purge::Purge;
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

    /// Removes paths that a person has named, whatever keeps them. Without a purge, the removal can be undone.
    ///
    /// # Errors
    /// As for [`Collector::collect`].
    pub async fn remove(
        &self,
        marking: &Marking,
        garbage: &Garbage,
        by: &str,
        purge: Option<Purge>,
        records: &mut dyn Records,
    ) -> Result<Ended> {
        let Some(mut purge) = purge else {
            return Act::new(self, marking, garbage, by, records).removal(false).run().await;
        };
        purge.record(&*self.session.fenced()).await?;
        let ended = Act::new(self, marking, garbage, by, records).removal(true).run().await?;
        if ended.error.is_none() {
            purge.finish(&self.session.deleting()).await?;
        }
        Ok(ended)
    }
}
