//! Publishes realisations: which path an output of a content-addressed derivation has become.

use super::narinfo::Publisher;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Condition, Put};
use crate::format::object_keys;
use crate::format::realisation::{Realisation, Standing};

/// The number of attempts to write an object while other writers change it.
const ATTEMPTS: usize = 5;

impl Publisher<'_> {
    /// Publishes a realisation. Its path is in the bucket; `since` is the moment since when the caller knows that.
    /// What stands in the bucket gains signatures. It is replaced only if no client can use it, or if the path that it names is
    /// not in the bucket. Returns the other path if it names one that is.
    ///
    /// # Errors
    /// When the session is over, a collection is removing the path or the object, or the bucket fails.
    pub async fn publish_realisation(
        &self,
        realisation: &Realisation,
        since: Moment,
    ) -> Result<Option<nix_derivation::StorePath>> {
        let (bucket, keys) = (self.examiner.bucket, self.examiner.judge.keys);
        let (key, path) = (realisation.key(), realisation.path.digest());
        let put = |body, condition, since| async move {
            self.session.put_realisation(&realisation.key(), body, path, condition, since).await
        };
        if self.session.has_conditional_writes() {
            let object = realisation.compose(keys)?;
            if put(object, Condition::IfAbsent, since).await? == Put::Written {
                return Ok(None);
            }
        }
        for _ in 0..ATTEMPTS {
            let found = bucket.get(&key).await?;
            let (standing, condition) = match &found {
                None => (Standing::Lacks(realisation.compose(keys)?), Condition::IfAbsent),
                Some(object) => (
                    realisation.compare(&object.body, keys)?,
                    object.etag.clone().map_or(Condition::None, Condition::IfMatch),
                ),
            };
            let body = match standing {
                // A collection that is removing the object does not ask what stands there.
                Standing::Complete | Standing::Foreign if self.session.nar_counts(&key) => return Ok(None),
                Standing::Complete | Standing::Foreign => return Err(going(&key)),
                Standing::Lacks(body) => body,
                Standing::Other(other) => {
                    if bucket.head(&object_keys::narinfo(&other)).await?.is_some() {
                        return Ok(Some(other));
                    }
                    realisation.compose(keys)?
                }
            };
            if put(body, condition, since).await? == Put::Written {
                return Ok(None);
            }
        }
        Err(Error::transient(Area::Bucket, format!("cannot change `{key}`"))
            .because("other writers changed it at each attempt"))
    }
}

fn going(key: &str) -> Error {
    Error::transient(Area::Bucket, format!("cannot write `{key}`"))
        .because("a collection is removing what stands there")
        .hint("try again when the collection has ended")
}
