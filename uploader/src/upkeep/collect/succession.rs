//! Ends what earlier collectors have left.

use std::sync::Arc;

use super::acting::{Act, Ended};
use super::lists::clear;
use super::worker::{Collector, News};
use crate::base::error::Result;
use crate::protocol::collection::Collection;
use crate::protocol::gate::Stage;
use crate::protocol::rules::Rules;
use crate::session::{Keys, Paths, list, read_list};

impl Collector<'_> {
    /// Ends what earlier collectors have begun: one of them is dead, or has ended.
    ///
    /// # Errors
    /// When the bucket fails.
    pub async fn take_over(&self) -> Result<()> {
        let bucket = self.session.bucket().clone();
        for (id, parts) in list(&*bucket).await?.collections {
            if let Some(stage) = parts.stage() {
                let found = match stage {
                    Stage::Deleting => read_list(&*bucket, &id, true).await.ok().flatten(),
                    _ => None,
                };
                let is_whole = stage != Stage::Deleting || found.is_some();
                let list = found.map(|found| found.list).unwrap_or_default();
                let levels: Vec<Paths> =
                    list.levels.into_iter().map(|level| level.into_iter().collect()).collect();
                let nars: Keys = list.objects.iter().map(|key| Arc::from(&**key)).collect();
                (self.news)(News::TakesOver { is_final: stage == Stage::Deleting });
                let mut machine = Collection::taken_over(stage, levels, nars, Rules::ALL);
                if !is_whole {
                    machine.abort();
                }
                let ended: Ended = Act::taken_over(self, &id, machine).run().await?;
                if let Some(error) = ended.error {
                    return Err(error);
                }
            } else {
                // What ended, and what never began: nobody adds to either.
                clear(&*self.session.fenced(), &id, &parts).await?;
            }
        }
        Ok(())
    }
}
