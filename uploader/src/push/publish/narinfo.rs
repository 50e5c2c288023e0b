//! Publishes the narinfo of a path, or adds our signatures to the narinfo in the bucket.

use larder_hook::fault::point;
use nix_derivation::StoreDir;

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Condition, ContentType, Put};
use crate::format::narinfo::{Standing, compose, standing};
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::format::signature::SecretKey;
use crate::push::outcome::Outcome;
use crate::push::send::Uploaded;
use crate::session::{FACT_AGE, Session};

/// The number of attempts to add a signature while other writers change the same narinfo.
const ATTEMPTS: usize = 5;

/// Publishes narinfos within a session.
#[derive(Clone, Copy, Debug)]
pub struct Publisher<'a> {
    /// The session.
    pub session: &'a Session,
    /// The store directory of the paths.
    pub store_dir: &'a StoreDir,
    /// The keys that sign each path.
    pub keys: &'a [SecretKey],
}

impl Publisher<'_> {
    /// Publishes the narinfo of a path whose NAR is in the bucket.
    ///
    /// # Errors
    /// When the session is over, when the NAR or the narinfo of a reference has vanished, or when the bucket fails.
    pub async fn publish(&self, info: &PathInfo, nar: &Uploaded) -> Result<Outcome> {
        let (object, sent) = (&nar.object, nar.sent);
        self.check_references(info).await?;
        if nar.at.elapsed() > FACT_AGE && self.bucket().head(&object.key).await?.is_none() {
            return Err(vanished(&object.key));
        }
        self.session.check()?;
        point("publish: before");
        let bytes = compose(self.store_dir, info, object, self.keys)?;
        let key = object_keys::narinfo(&info.path);
        // A narinfo in the bucket is not replaced. Where the server does not honour the condition of the PUT, another
        // writer can come first only within the time of one request.
        if !self.session.has_conditional_writes() && self.bucket().head(&key).await?.is_some() {
            return self.sign(info).await;
        }
        match self.bucket().put(&key, bytes.into(), ContentType::NarInfo, Condition::IfAbsent).await? {
            Put::Written => Ok(Outcome::Pushed { nar_size: info.nar_size, sent }),
            // Another writer was first, or the answer to our first attempt was lost. The narinfo tells which.
            Put::Refused => match self.sign(info).await? {
                Outcome::Present => Ok(Outcome::Pushed { nar_size: info.nar_size, sent }),
                other => Ok(other),
            },
        }
    }

    /// Adds our signatures to the narinfo in the bucket.
    ///
    /// # Errors
    /// As for [`Publisher::publish`], and when other writers change the narinfo at each attempt.
    pub async fn sign(&self, info: &PathInfo) -> Result<Outcome> {
        self.check_references(info).await?;
        self.session.check()?;
        let key = object_keys::narinfo(&info.path);
        let mut written = false;
        // Another writer may add its signature at the same time. On a server without conditional writes, one of the two
        // signatures is lost. So the narinfo is read again after each write.
        for _ in 0..ATTEMPTS {
            let object = self.bucket().get(&key).await?.ok_or_else(|| vanished(&key))?;
            match standing(self.store_dir, info, &object.body, self.keys)? {
                Standing::Complete if written => return Ok(Outcome::Signed),
                Standing::Complete => return Ok(Outcome::Present),
                Standing::Differs => return Ok(Outcome::Differs),
                Standing::LacksSignatures(bytes) => {
                    let condition = object.etag.map_or(Condition::None, Condition::IfMatch);
                    let put = self.bucket().put(&key, bytes.into(), ContentType::NarInfo, condition).await?;
                    written |= put == Put::Written;
                }
            }
        }
        Err(Error::transient(Area::Bucket, format!("cannot add a signature to `{key}`"))
            .because("other writers changed it at each attempt"))
    }

    /// Asks the bucket again for references whose presence was proved too long ago. A reference without a fact is
    /// upstream's.
    async fn check_references(&self, info: &PathInfo) -> Result<()> {
        let facts = self.session.facts();
        for reference in info.dependencies().filter(|reference| facts.is_outdated(reference)) {
            let (key, at) = (object_keys::narinfo(reference), Moment::now());
            if self.bucket().head(&key).await?.is_none() {
                // The outdated fact stays, so that other paths with this reference ask, too.
                return Err(vanished(&key));
            }
            facts.record(reference.clone(), at);
        }
        Ok(())
    }

    fn bucket(&self) -> &dyn Bucket {
        &**self.session.bucket()
    }
}

fn vanished(key: &str) -> Error {
    Error::transient(Area::Bucket, format!("`{key}` has vanished from the bucket"))
        .because("it was in the bucket when this push began")
        .hint("the next attempt pushes it again")
}
