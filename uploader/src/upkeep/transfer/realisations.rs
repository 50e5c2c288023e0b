//! Brings the realisations of paths along, after the paths themselves.

use futures::{StreamExt, stream};

use super::carry::Carrier;
use crate::base::clock::Moment;
use crate::base::error::Result;
use crate::bucket::Depth;
use crate::format::object_kind::REALISATIONS;
use crate::format::realisation::{LARGEST, Realisation};
use crate::session::HashPart;
use crate::upkeep::repair::Source;

/// The number of realisations that are carried at the same time.
const CONCURRENT: usize = 16;

impl Carrier<'_> {
    /// Carries the realisations of those paths that `is_there`: clients can take them from the bucket since the moment `since`.
    /// Only those count that a trusted key has signed; what else stands there is left. Returns how many were carried or were there
    /// already. A cache over HTTP does not tell what it has: nothing is carried from there.
    ///
    /// # Errors
    /// When the source or the bucket fails.
    pub async fn carry_realisations(
        &self,
        is_there: &(dyn Fn(&HashPart) -> bool + Sync),
        since: Moment,
    ) -> Result<usize> {
        let Source::Bucket(source) = self.source else { return Ok(0) };
        let mut carried = 0;
        for prefix in REALISATIONS {
            let mut next = None;
            loop {
                let page = source.list(prefix, next.as_ref(), Depth::Flat).await?;
                let keys = page.objects.into_iter().filter(|object| object.size <= LARGEST);
                let work =
                    keys.map(|object| async move { self.carry_one(&object.key, is_there, since).await });
                let mut running = stream::iter(work).buffer_unordered(CONCURRENT);
                while let Some(done) = running.next().await {
                    carried += usize::from(done?);
                }
                next = page.next;
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(carried)
    }

    /// Carries a realisation. Returns whether it belongs into the bucket.
    async fn carry_one(
        &self,
        key: &str,
        is_there: &(dyn Fn(&HashPart) -> bool + Sync),
        since: Moment,
    ) -> Result<bool> {
        let Source::Bucket(source) = self.source else { return Ok(false) };
        let Some(object) = source.get(key).await? else { return Ok(false) };
        let Some(mut found) = Realisation::parse(key, &object.body) else { return Ok(false) };
        if !is_there(found.path.digest()) || !found.is_signed_by(&self.pusher.rules().trusted_keys) {
            return Ok(false);
        }
        found.signatures.retain(|signature| !self.is_dropped(signature));
        let other = self.pusher.publisher().publish_realisation(&found, since).await?;
        Ok(other.is_none())
    }
}
