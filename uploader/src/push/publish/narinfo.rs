//! Publishing: a narinfo becomes visible, or gains our signatures.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use larder_hook::fault::point;
use nix_derivation::StorePath;

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Condition, ContentType, Put};
use crate::format::narinfo::{Standing, compose, standing};
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::push::decide::plan::Presence;
use crate::push::outcome::Outcome;
use crate::push::pusher::Pusher;
use crate::push::send::upload::Uploaded;
use crate::survey::presence::{Narinfos, Question};

/// A fact about the bucket that is older is asked again before a narinfo relies on it.
pub(crate) const FACT_AGE: Duration = Duration::from_secs(30 * 60);
/// How often a narinfo is written again when others write it at the same time.
const ROUNDS: usize = 5;

impl Pusher {
    /// Makes the narinfo of a path visible whose NAR is in the bucket.
    pub(crate) async fn publish(&self, info: &PathInfo, nar: &Uploaded) -> Result<Outcome> {
        let (object, sent) = (&nar.object, nar.sent);
        self.check_references(info).await?;
        if nar.at.elapsed() > FACT_AGE && self.bucket.head(&object.key).await?.is_none() {
            return Err(vanished(&object.key));
        }
        self.session.check()?;
        point("publish: before");
        let bytes = compose(&self.store.store_dir, info, object, &self.keys)?;
        let key = object_keys::narinfo(&info.path);
        // A standing narinfo is not replaced. Where the server does not see to that itself, what is left of the time
        // in which another writer may come first is the time of one request.
        if !self.session.has_conditional_writes() && self.bucket.head(&key).await?.is_some() {
            return self.sign(info).await;
        }
        match self.bucket.put(&key, bytes.into(), ContentType::NarInfo, Condition::IfAbsent).await? {
            Put::Written => Ok(Outcome::Pushed { nar_size: info.nar_size, sent }),
            // Somebody was first, or the answer to our own first attempt got lost: see what stands there.
            Put::Refused => match self.sign(info).await? {
                Outcome::Present => Ok(Outcome::Pushed { nar_size: info.nar_size, sent }),
                other => Ok(other),
            },
        }
    }

    /// Adds our signatures to the narinfo that stands in the bucket.
    pub(crate) async fn sign(&self, info: &PathInfo) -> Result<Outcome> {
        self.check_references(info).await?;
        self.session.check()?;
        let key = object_keys::narinfo(&info.path);
        let mut written = false;
        // Another writer may add its signature at the same time; on a server without conditional writes one of the
        // two is lost, so what stands there afterwards is read and mended.
        for _ in 0..ROUNDS {
            let object = self.bucket.get(&key).await?.ok_or_else(|| vanished(&key))?;
            match standing(&self.store.store_dir, info, &object.body, &self.keys)? {
                Standing::Complete if written => return Ok(Outcome::Signed),
                Standing::Complete => return Ok(Outcome::Present),
                Standing::Differs => return Ok(Outcome::Differs),
                Standing::LacksSignatures(bytes) => {
                    let condition = object.etag.map_or(Condition::None, Condition::IfMatch);
                    let put = self.bucket.put(&key, bytes.into(), ContentType::NarInfo, condition).await?;
                    written |= put == Put::Written;
                }
            }
        }
        Err(Error::transient(Area::Bucket, format!("cannot add a signature to `{key}`"))
            .because("other writers changed it each time"))
    }

    /// Asks again for references whose presence was found out too long ago. What is not among the facts is upstream's.
    async fn check_references(&self, info: &PathInfo) -> Result<()> {
        for reference in info.dependencies() {
            let old = self.facts().get(reference).is_some_and(|at| at.elapsed() > FACT_AGE);
            if !old {
                continue;
            }
            let (key, at) = (object_keys::narinfo(reference), Moment::now());
            if self.bucket.head(&key).await?.is_none() {
                // The old fact stays, so that whoever else refers to it asks, too.
                return Err(vanished(&key));
            }
            self.facts().insert(reference.clone(), at);
        }
        Ok(())
    }

    /// What the bucket has of each path, from what is known freshly enough or by asking.
    pub(crate) async fn ask(
        &self,
        wanted: Vec<Arc<PathInfo>>,
        listing: Narinfos,
        read_all: bool,
    ) -> Result<HashMap<Arc<StorePath>, Presence>> {
        let (known, asked): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|info| self.is_fresh(&info.path));
        let question =
            Question { bucket: &*self.bucket, store_dir: &self.store.store_dir, keys: &self.keys, read_all };
        let (mut found, at) = question.ask(&asked, listing).await?;
        let complete = found.iter().filter(|(_, presence)| matches!(presence, Presence::Complete));
        self.facts().extend(complete.map(|(path, _)| (path.clone(), at)));
        found.extend(known.into_iter().map(|info| (info.path.clone(), Presence::Complete)));
        Ok(found)
    }

    /// Whether a path was seen in the bucket not too long ago.
    pub(crate) fn is_fresh(&self, path: &StorePath) -> bool {
        self.facts().get(path).is_some_and(|at| at.elapsed() <= FACT_AGE)
    }
}

fn vanished(key: &str) -> Error {
    Error::transient(Area::Bucket, format!("`{key}` has vanished from the bucket"))
        .because("it was there when this push began")
        .hint("the next attempt pushes it again")
}
