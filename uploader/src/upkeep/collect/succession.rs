//! Ends what earlier collectors have left.

use std::sync::Arc;

use super::acting::{Act, Ended};
use super::lists::clear;
use super::worker::{Collector, News};
use crate::base::error::{Result, Retry};
use crate::bucket::is_key;
use crate::format::object_kind::ObjectKind;
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
                    Stage::Deleting => match read_list(&*bucket, &id, true).await {
                        Ok(found) => found,
                        // The list may be readable later: what it names is still to be deleted.
                        Err(error) if error.retry() != Retry::Permanent => return Err(error),
                        Err(_) => None,
                    },
                    _ => None,
                };
                let is_whole = stage != Stage::Deleting || found.is_some();
                let list = found.map(|found| found.list).unwrap_or_default();
                let levels: Vec<Paths> =
                    list.levels.into_iter().map(|level| level.into_iter().collect()).collect();
                let nars: Keys =
                    list.objects.iter().filter(|key| may_go(key)).map(|key| Arc::from(&**key)).collect();
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

/// Whether a collection deletes objects of this kind besides narinfos. The list may be forged.
pub(super) fn may_go(key: &str) -> bool {
    let kind = ObjectKind::of(key);
    is_key(key)
        && !matches!(
            kind,
            ObjectKind::CacheInfo | ObjectKind::Narinfo(_) | ObjectKind::Marker | ObjectKind::Own(_)
        )
}
