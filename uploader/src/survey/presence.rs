//! What the bucket has of a set of paths: asked one by one when they are few, by listing when they are many.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use nix_derivation::{StoreDir, StorePath, nixbase32};
use rand_core::{OsRng, RngCore};
use tokio::task::JoinSet;

use super::prefix_scan::{Listed, worth};
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Depth, ObjectMeta};
use crate::format::narinfo::{NarObject, Standing, fits, standing};
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::format::signature::SecretKey;
use crate::push::decide::plan::{Action, Presence, Todo};

/// Up to so many paths, each is asked for by itself.
pub const FEW: usize = 64;
/// Questions on their way at the same time.
const AT_ONCE: usize = 48;
/// So many of the narinfos that a listing shows to be as long as ours would be are read all the same.
const SAMPLE: usize = 16;

/// What presence is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Where narinfos are looked for.
    pub bucket: &'a dyn Bucket,
    /// The store directory of the paths.
    pub store_dir: &'a StoreDir,
    /// The keys that should have signed them.
    pub keys: &'a [SecretKey],
    /// Read each narinfo that is there, however many they are.
    pub read_all: bool,
}

/// A listing of the bucket's narinfos that goes on while other things are done: what is known of each is its size.
#[derive(Debug)]
pub struct Narinfos(JoinSet<Result<Listed<[u8; 20], u64>>>);

impl Narinfos {
    /// Begins to list when at least `wanted` paths are going to be asked for and that is many.
    pub fn begin(bucket: &Arc<dyn Bucket>, wanted: usize) -> Self {
        let mut task = JoinSet::new();
        if wanted > FEW {
            let bucket = bucket.clone();
            task.spawn(async move {
                let mut listed = Listed::nothing("", Depth::OneLevel);
                listed.list(&*bucket, worth(wanted), size).await?;
                Ok(listed)
            });
        }
        Self(task)
    }

    async fn end(mut self, bucket: &dyn Bucket, wanted: usize) -> Result<Listed<[u8; 20], u64>> {
        let mut listed = match self.0.join_next().await {
            Some(Ok(listed)) => listed?,
            Some(Err(error)) => {
                return Err(Error::permanent(Area::General, "the listing of the bucket died").because(error));
            }
            None => Listed::nothing("", Depth::OneLevel),
        };
        listed.list(bucket, worth(wanted), size).await?;
        Ok(listed)
    }
}

fn size(object: ObjectMeta) -> Option<([u8; 20], u64)> {
    let hash = nixbase32::decode(object_keys::narinfo_hash(&object.key)?.as_bytes()).ok()?;
    Some((hash.try_into().ok()?, object.size))
}

impl Question<'_> {
    /// Asks for the narinfo of each path, and since when the answers hold.
    ///
    /// Up to [`FEW`] are read and compared with the store's. Of more, a listing tells which are there and how long they
    /// are. One that is as long as ours can be is taken for complete; others are read. Of those that fit, a sample,
    /// chosen at random, is read, too, and when one of it lacks something, all are.
    ///
    /// # Errors
    /// Only of the listing; an error that concerns one path stands in its place as [`Presence::Unknown`].
    pub async fn ask(
        &self,
        wanted: &[Arc<PathInfo>],
        listing: Narinfos,
    ) -> Result<(HashMap<Arc<StorePath>, Presence>, Moment)> {
        let mut found = HashMap::with_capacity(wanted.len());
        if wanted.len() <= FEW {
            let at = Moment::now();
            self.read(wanted.to_vec(), &mut found).await;
            return Ok((found, at));
        }
        let listed = listing.end(self.bucket, wanted.len()).await?;
        let (mut fit, mut read) = (Vec::new(), Vec::new());
        for info in wanted.iter().cloned() {
            match listed.found.get(info.path.digest()) {
                Some(size) if !self.read_all && fits(self.store_dir, &info, self.keys, *size) => {
                    fit.push(info);
                }
                None if listed.covers(&object_keys::narinfo(&info.path)) => {
                    found.insert(info.path.clone(), Presence::Absent);
                }
                _ => read.push(info),
            }
        }
        let at = listed.at;
        drop(listed);
        let sample = SAMPLE.min(fit.len());
        for place in 0..sample {
            let other = OsRng.next_u64() % (fit.len() - place) as u64;
            fit.swap(place, place + other as usize);
        }
        let rest = fit.split_off(sample);
        read.extend(fit.iter().cloned());
        self.read(read, &mut found).await;
        // Other contents have nothing to do with what was signed by whom.
        let is_sound = |info: &Arc<PathInfo>| {
            matches!(found.get(&info.path), Some(Presence::Complete | Presence::Differs))
        };
        if fit.iter().all(is_sound) {
            found.extend(rest.iter().map(|info| (info.path.clone(), Presence::Complete)));
        } else {
            self.read(rest, &mut found).await;
        }
        Ok((found, at))
    }

    async fn read(&self, infos: Vec<Arc<PathInfo>>, found: &mut HashMap<Arc<StorePath>, Presence>) {
        let one = |info: Arc<PathInfo>| async move { (info.path.clone(), self.narinfo(&info).await) };
        let mut answers = stream::iter(infos.into_iter().map(one)).buffer_unordered(AT_ONCE);
        while let Some((path, presence)) = answers.next().await {
            found.insert(path, presence);
        }
    }

    async fn narinfo(&self, info: &PathInfo) -> Presence {
        let compared = match self.bucket.get(&object_keys::narinfo(&info.path)).await {
            Ok(None) => return Presence::Absent,
            Ok(Some(object)) => standing(self.store_dir, info, &object.body, self.keys),
            Err(error) => Err(error),
        };
        match compared {
            Ok(Standing::Complete) => Presence::Complete,
            Ok(Standing::LacksSignatures(_)) => Presence::LacksSignatures,
            Ok(Standing::Differs) => Presence::Differs,
            Err(error) => Presence::Unknown(error),
        }
    }
}

/// NARs of ours that are in the bucket, as far as a listing of them is worth it.
#[derive(Debug)]
pub struct Nars(Listed<[u8; 32], NarObject>);

impl Nars {
    /// Lists them when many are to be uploaded; those that none of `todo` needs are not kept.
    pub async fn list(bucket: &dyn Bucket, todo: &[Todo]) -> Result<Self> {
        let uploads = todo.iter().filter(|todo| todo.action == Action::Upload);
        let wanted: HashSet<_> = uploads.map(|todo| todo.info.nar_hash).collect();
        let mut nars = Self(Listed::nothing(object_keys::NARS, Depth::Flat));
        if wanted.len() > FEW {
            let read = |meta: ObjectMeta| object(meta).filter(|(hash, _)| wanted.contains(hash));
            nars.0.list(bucket, worth(wanted.len()), read).await?;
        }
        Ok(nars)
    }

    /// An object with these contents that the listing has shown, and when it was there.
    pub fn listed(&self, nar_hash: &[u8; 32]) -> Option<(NarObject, Moment)> {
        self.0.found.get(nar_hash).map(|object| (object.clone(), self.0.at))
    }
}

/// Asks the bucket for an object with these contents; with it comes when it was there.
pub async fn find_nar(bucket: &dyn Bucket, nar_hash: &[u8; 32]) -> Result<Option<(NarObject, Moment)>> {
    let at = Moment::now();
    let page = bucket.list(&object_keys::nar_prefix(nar_hash), None, Depth::Flat).await?;
    Ok(page.objects.into_iter().find_map(object).map(|(_, object)| (object, at)))
}

fn object(meta: ObjectMeta) -> Option<([u8; 32], NarObject)> {
    let (hash, compression) = object_keys::parse_nar(&meta.key)?;
    Some((hash, NarObject { key: meta.key, compression, file_hash: None, file_size: Some(meta.size) }))
}
