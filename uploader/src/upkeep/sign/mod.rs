//! New signatures for the narinfos of a bucket.
//!
//! Signing is writing: it happens in a session with a lease. A narinfo that was removed meanwhile is not written again.

use futures::{StreamExt, stream};

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Condition, Put};
use crate::format::object_keys::narinfo_of;
use crate::format::resign::{Resigned, Resigning};
use crate::session::Session;
use crate::upkeep::inventory::{Catalog, PathId};

/// The number of narinfos that are changed at the same time.
const CONCURRENT: usize = 48;
/// The number of attempts to change a narinfo while other writers change it.
const ATTEMPTS: usize = 5;

/// What became of a narinfo.
#[derive(Clone, Debug)]
pub enum Signed {
    /// It has, or had already, the wanted signatures; the names of the keys whose signatures were added and dropped.
    Done {
        /// The new signatures.
        added: Vec<String>,
        /// The signatures that were taken away.
        dropped: Vec<String>,
    },
    /// It stays as it is, for this reason.
    Left(String),
    /// It was removed meanwhile.
    Gone,
    /// The bucket failed.
    Failed(Error),
}

/// Signs narinfos.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    /// The session.
    pub session: &'a Session,
    /// How signatures change.
    pub resigning: Resigning<'a>,
    /// Whether nothing is written.
    pub dry_run: bool,
}

impl Signer<'_> {
    /// The paths whose narinfos lack a signature, have one that goes, or are at fault, so that they must be read. The names
    /// of the signatures are those in the catalog.
    pub fn wanting(&self, catalog: &Catalog) -> Vec<PathId> {
        let wants = |id: &PathId| {
            let signers = catalog.signers(*id);
            let lacks = self.resigning.keys.iter().any(|key| !signers.iter().any(|name| name == key.name()));
            let drops = self.resigning.drop.iter().any(|name| signers.contains(name));
            lacks || drops || catalog.fault(*id).is_some()
        };
        catalog.ids().filter(wants).collect()
    }

    /// Changes the narinfos of paths. Hands over what became of each.
    pub async fn sign(&self, catalog: &Catalog, paths: Vec<PathId>, mut take: impl FnMut(PathId, Signed)) {
        let signing = paths.into_iter().map(|id| {
            let (digest, fault) = (*catalog.digest(id), catalog.fault(id).map(|fault| fault.text()));
            async move {
                // A signature for a path that no client can take would say that it can be taken.
                let signed = match fault {
                    Some(fault) => Signed::Left(fault),
                    None => self.sign_one(&digest).await.unwrap_or_else(Signed::Failed),
                };
                (id, signed)
            }
        });
        let mut signing = stream::iter(signing).buffer_unordered(CONCURRENT);
        while let Some((id, signed)) = signing.next().await {
            take(id, signed);
        }
    }

    async fn sign_one(&self, digest: &[u8; 20]) -> Result<Signed> {
        let (bucket, key) = (self.session.bucket(), narinfo_of(digest));
        let (mut all_added, mut all_dropped) = (Vec::new(), Vec::new());
        for _ in 0..ATTEMPTS {
            let since = Moment::now();
            let Some(object) = bucket.get(&key).await? else { return Ok(Signed::Gone) };
            let (bytes, added, dropped) = match self.resigning.of(digest, &object.body) {
                Resigned::Unchanged => return Ok(Signed::Done { added: all_added, dropped: all_dropped }),
                Resigned::Left(reason) => return Ok(Signed::Left(reason)),
                Resigned::Failed(error) => return Err(error),
                Resigned::Changed { bytes, added, dropped } => (bytes, added, dropped),
            };
            if self.dry_run {
                return Ok(Signed::Done { added, dropped });
            }
            // The condition refuses the write if the narinfo has changed or is gone. Where the server ignores it, the session
            // still refuses if a collection may have taken the narinfo since it was read.
            let condition = object.etag.map_or(Condition::None, Condition::IfMatch);
            let is_certain =
                self.session.has_conditional_writes() && matches!(condition, Condition::IfMatch(_));
            let put = self.session.put_narinfo(bytes, condition, since).await?;
            if put == Put::Written {
                (all_added, all_dropped) = (added, dropped);
                if is_certain {
                    return Ok(Signed::Done { added: all_added, dropped: all_dropped });
                }
            }
            // Otherwise the narinfo is read again: another writer may have changed it at the same time.
        }
        Err(Error::transient(Area::Bucket, format!("cannot change `{key}`"))
            .because("other writers changed it at each attempt")
            .hint("sign again: narinfos that have the signatures are not written again"))
    }
}

#[cfg(test)]
mod tests;
