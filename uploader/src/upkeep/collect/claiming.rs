//! Makes sure that this collector is the only one that acts, and ends what earlier collectors have left.

use std::sync::Arc;

use super::acting::{Act, Ended};
use super::lists::clear;
use super::worker::{Collector, News};
use crate::base::error::{Area, Error, Result};
use crate::protocol::collection::Collection;
use crate::protocol::gate::Stage;
use crate::protocol::leases::{Claim, Life, Role};
use crate::protocol::rules::Rules;
use crate::session::{Keys, Paths, list, read_list};

impl Collector<'_> {
    /// Waits until this collector may act, and ends the collections that are open.
    ///
    /// # Errors
    /// When another collector is at work, or the bucket fails.
    pub async fn begin(&self) -> Result<()> {
        self.claim().await?;
        self.take_over().await
    }

    async fn claim(&self) -> Result<()> {
        loop {
            let leases = self.session.leases().await?;
            match self.session.claim(&leases) {
                Claim::Act => return self.session.bury(&leases).await,
                Claim::GiveWay => {
                    let text = format!("cannot collect `{}`", self.session.bucket().address());
                    return Err(Error::transient(Area::Bucket, text)
                        .because("another collector is at work, or was killed less than an hour ago")
                        .hint("try again later"));
                }
                Claim::Wait => {}
            }
            let others =
                leases.iter().filter(|seen| seen.role == Role::Collector && seen.life == Life::Living);
            (self.news)(News::WaitsForCollectors(others.count()));
            self.pause().await?;
        }
    }

    /// Ends what earlier collectors have begun: one of them is dead, or has ended.
    async fn take_over(&self) -> Result<()> {
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
