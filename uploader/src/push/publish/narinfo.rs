//! Publishes the narinfo of a path, or adds our signatures to the narinfo in the bucket.

use larder_hook::fault::point;

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Condition, Put};
use crate::format::narinfo::compose;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::push::outcome::Outcome;
use crate::push::send::Uploaded;
use crate::session::{FACT_AGE, Proof, Session};
use crate::survey::{Examiner, Presence, vanished};

/// The number of attempts to write a narinfo while other writers change it.
const ATTEMPTS: usize = 5;

/// Publishes narinfos within a session.
#[derive(Clone, Copy, Debug)]
pub struct Publisher<'a> {
    /// The session.
    pub session: &'a Session,
    /// Examines the narinfos in the bucket, and has the keys that sign each path.
    pub examiner: Examiner<'a>,
}

impl Publisher<'_> {
    /// Publishes the narinfo of a path whose NAR is in the bucket. A narinfo in the bucket stays, unless no client can
    /// use it and larder may replace it.
    ///
    /// # Errors
    /// When the session is over, when the NAR or the narinfo of a reference has vanished, or when the bucket fails.
    pub async fn publish(&self, info: &PathInfo, nar: &Uploaded) -> Result<Outcome> {
        // What the narinfo relies on is known since then: the NAR since it was sent, or found.
        let is_old = nar.at.elapsed() > FACT_AGE;
        let since = if is_old { Moment::now() } else { nar.at };
        self.check_references(info).await?;
        if is_old && self.bucket().head(&nar.object.key).await?.is_none() {
            return Err(vanished(&info.path, &format!("its NAR `{}` is not in the bucket", nar.object.key)));
        }
        self.session.check()?;
        point("publish: before");
        let judge = self.examiner.judge;
        let bytes = compose(judge.store_dir, info, &nar.object, judge.keys)?;
        let key = object_keys::narinfo(&info.path);
        let pushed = Outcome::Pushed { nar_size: info.nar_size, sent: nar.sent };
        // Where the server does not honour the condition of the PUT, another writer can come first only within the time
        // of one request.
        if self.session.has_conditional_writes() || self.bucket().head(&key).await?.is_none() {
            match self.session.put_narinfo(bytes.clone(), Condition::IfAbsent, since).await? {
                Put::Written => return Ok(pushed),
                Put::Refused => {}
            }
        }
        // A narinfo stands, another writer was first, or the answer to our first attempt was lost.
        Ok(match self.settle(info, Some(bytes), since).await? {
            Outcome::Present => pushed,
            other => other,
        })
    }

    /// Adds our signatures to the narinfo in the bucket.
    ///
    /// # Errors
    /// As for [`Publisher::publish`], and when other writers change the narinfo at each attempt.
    pub async fn sign(&self, info: &PathInfo) -> Result<Outcome> {
        let since = Moment::now();
        self.check_references(info).await?;
        self.session.check()?;
        self.settle(info, None, since).await
    }

    /// Reads the narinfo in the bucket, and writes what is missing, until nothing is missing. `replacement` replaces a
    /// narinfo that no client can use. `since` is the moment since when the caller knows what the narinfo relies on.
    async fn settle(&self, info: &PathInfo, replacement: Option<Vec<u8>>, since: Moment) -> Result<Outcome> {
        let key = object_keys::narinfo(&info.path);
        let (mut signed, mut replaced) = (false, false);
        // Another writer may change the narinfo at the same time. On a server without conditional writes, one of two
        // changes is lost. So the narinfo is read again after each write.
        for _ in 0..ATTEMPTS {
            // Before larder writes, it asks the bucket, not an older listing.
            let found = self.examiner.examine(info, None).await;
            let matching = found.etag.map_or(Condition::None, Condition::IfMatch);
            match (found.presence, found.rewritten, &replacement) {
                (Presence::Complete, ..) if signed && !replaced => return Ok(Outcome::Signed),
                (Presence::Complete, ..) => return Ok(Outcome::Present),
                (Presence::Differs { signer }, ..) => return Ok(Outcome::Differs { signer }),
                (Presence::Unusable(reason), ..) => return Ok(Outcome::Unusable(reason)),
                (Presence::Unknown(error), ..) => return Err(error),
                (Presence::LacksSignatures { .. }, Some(rewritten), _) => {
                    signed |= self.put(rewritten, matching, since).await?;
                }
                (Presence::Replaceable, _, Some(bytes)) => {
                    replaced |= self.put(bytes.clone(), matching, since).await?;
                }
                (Presence::Absent, _, Some(bytes)) => {
                    replaced |= self.put(bytes.clone(), Condition::IfAbsent, since).await?;
                }
                (Presence::Absent | Presence::Replaceable | Presence::LacksSignatures { .. }, ..) => {
                    return Err(vanished(&info.path, "its narinfo has changed since this push began"));
                }
            }
        }
        Err(Error::transient(Area::Bucket, format!("cannot change `{key}`"))
            .because("other writers changed it at each attempt"))
    }

    /// Asks the bucket again for references that were proved too long ago. A reference without a fact is upstream's.
    async fn check_references(&self, info: &PathInfo) -> Result<()> {
        let facts = self.session.facts();
        for reference in info.dependencies().filter(|reference| facts.is_outdated(reference)) {
            let at = Moment::now();
            if let Some(fault) = self.examiner.fault_of(reference).await? {
                // The outdated fact stays, so that other paths with this reference ask, too.
                return Err(vanished(reference, &fault));
            }
            facts.record(reference.clone(), at, Proof::Foreign);
        }
        Ok(())
    }

    /// Writes a narinfo. Returns whether it was written.
    async fn put(&self, bytes: Vec<u8>, condition: Condition, since: Moment) -> Result<bool> {
        Ok(self.session.put_narinfo(bytes, condition, since).await? == Put::Written)
    }

    fn bucket(&self) -> &dyn Bucket {
        self.examiner.bucket
    }
}
