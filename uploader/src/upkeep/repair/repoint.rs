//! Lets the narinfo of a path name another object with the same NAR.

use larder_hook::fault::point;
use nix_derivation::store_path::StoreDir;
use nix_narinfo::TrustedPublicKey;

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Condition, Put};
use crate::format::named_nar::ObjectOfNar;
use crate::format::object_keys;
use crate::format::repointing::Claim;
use crate::session::Session;

/// The number of attempts while other writers change the narinfo.
const ATTEMPTS: usize = 5;

/// How an attempt to change a narinfo has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Repointed {
    /// The narinfo names the object.
    Done,
    /// Another writer has mended the path meanwhile.
    ByAnother,
    /// The narinfo is not the one that was examined.
    Changed(&'static str),
}

/// Changes narinfos.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repointer<'a> {
    pub(super) session: &'a Session,
    pub(super) store_dir: &'a StoreDir,
    /// The keys that clients trust.
    pub(super) trusted: &'a [TrustedPublicKey],
}

impl Repointer<'_> {
    /// Changes the narinfo for which `examined` was read, so that it names `object`, which holds the same NAR and is in the
    /// bucket since `since`. Everything else in the narinfo stays, with what other writers have added meanwhile.
    ///
    /// # Errors
    /// When the session is over, the bucket fails, or other writers change the narinfo at each attempt.
    pub(super) async fn repoint(
        &self,
        examined: &Claim,
        object: &ObjectOfNar,
        since: Moment,
    ) -> Result<Repointed> {
        let bucket: &dyn Bucket = &**self.session.bucket();
        let digest = examined.info.path.digest();
        let key = object_keys::narinfo_of(digest);
        for _ in 0..ATTEMPTS {
            let Some(found) = bucket.get(&key).await? else {
                return Ok(Repointed::Changed("its narinfo was removed meanwhile"));
            };
            let claim = Claim::read(self.store_dir, self.trusted, digest, &found.body).ok();
            let Some(claim) = claim.filter(|claim| claim.is_vouched) else {
                return Ok(Repointed::Changed("its narinfo has become unusable meanwhile"));
            };
            if (claim.info.nar_hash, claim.info.nar_size) != (examined.info.nar_hash, examined.info.nar_size)
            {
                return Ok(Repointed::Changed("its narinfo describes another build now"));
            }
            let bytes = claim.pointing_to(self.store_dir, object)?;
            if bytes == found.body {
                return Ok(Repointed::Done);
            }
            if self.is_mended(examined, &claim).await? {
                return Ok(Repointed::ByAnother);
            }
            self.session.check()?;
            point("repair: before a narinfo");
            let condition = found.etag.map_or(Condition::None, Condition::IfMatch);
            // Where the server ignores the condition, a change of another writer may be lost, or may undo this one: the
            // narinfo is read again in any case.
            let put = self.session.put_narinfo(bytes, condition, since).await?;
            if put == Put::Written {
                point("repair: after a narinfo");
            }
        }
        Err(Error::transient(Area::Bucket, format!("cannot change `{key}`"))
            .because("other writers changed it at each attempt"))
    }

    /// Whether the narinfo names another NAR than when it was examined, and that NAR is there.
    async fn is_mended(&self, examined: &Claim, now: &Claim) -> Result<bool> {
        let Some(nar) =
            now.nar.as_ref().filter(|nar| Some(&nar.key) != examined.nar.as_ref().map(|nar| &nar.key))
        else {
            return Ok(false);
        };
        let meta = self.session.bucket().head(&nar.key).await?;
        Ok(meta.is_some_and(|meta| nar.fits(meta.size)))
    }
}
