//! The presence of narinfos. For a few paths, the survey reads each narinfo; for many paths, it lists the bucket.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use nix_derivation::{StoreDir, StorePath, nixbase32};
use rand_core::{OsRng, RngCore};
use tokio::task::JoinSet;

use super::prefix_scan::{PrefixScan, pages_worth};
use super::presence::Presence;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Depth, ObjectMeta};
use crate::format::narinfo::{Standing, fits, standing};
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::format::signature::SecretKey;

/// The largest number of paths whose narinfos are read without a listing.
pub const FEW: usize = 64;
/// The number of concurrent requests for narinfos.
const CONCURRENT: usize = 48;
/// The number of narinfos that are read although their listed size is the expected one.
const SAMPLE: usize = 16;

/// The sizes of the narinfos in the bucket, by the hash part of their store path.
type Sizes = PrefixScan<[u8; 20], u64>;

/// A scan of the bucket's narinfos that runs in the background.
#[derive(Debug)]
pub struct NarinfoScan(JoinSet<Result<Sizes>>);

impl NarinfoScan {
    /// Begins to scan when at least `wanted` paths will be asked about and that number is above [`FEW`].
    pub fn begin(bucket: &Arc<dyn Bucket>, wanted: usize) -> Self {
        let mut task = JoinSet::new();
        if wanted > FEW {
            let bucket = bucket.clone();
            task.spawn(async move {
                let mut sizes = Sizes::new("", Depth::OneLevel);
                sizes.run(&*bucket, pages_worth(wanted), narinfo_size).await?;
                Ok(sizes)
            });
        }
        Self(task)
    }

    /// Waits for the scan, and continues it up to the number of pages that `wanted` paths are worth.
    async fn end(mut self, bucket: &dyn Bucket, wanted: usize) -> Result<Sizes> {
        let mut sizes = match self.0.join_next().await {
            Some(Ok(sizes)) => sizes?,
            Some(Err(error)) => {
                return Err(Error::permanent(Area::General, "the task that lists the bucket ended early")
                    .because(error));
            }
            None => Sizes::new("", Depth::OneLevel),
        };
        sizes.run(bucket, pages_worth(wanted), narinfo_size).await?;
        Ok(sizes)
    }
}

fn narinfo_size(object: ObjectMeta) -> Option<([u8; 20], u64)> {
    let hash = nixbase32::decode(object_keys::narinfo_hash(&object.key)?.as_bytes()).ok()?;
    Some((hash.try_into().ok()?, object.size))
}

/// A survey of narinfos.
#[derive(Clone, Copy, Debug)]
pub struct NarinfoSurvey<'a> {
    /// The bucket.
    pub bucket: &'a dyn Bucket,
    /// The store directory of the paths.
    pub store_dir: &'a StoreDir,
    /// The keys that should have signed the paths.
    pub keys: &'a [SecretKey],
    /// Read each narinfo, also those that a listing shows with the expected size.
    pub read_all: bool,
}

impl NarinfoSurvey<'_> {
    /// Finds the presence of each path. The result also holds the time since which the answers are known to hold.
    ///
    /// The narinfos of [`FEW`] or fewer paths are read and compared with the store's. For more paths, a listing tells
    /// which narinfos exist, and their sizes. A narinfo of the size that ours must have counts as complete; a narinfo
    /// of another size is read. Of the narinfos with the expected size, a random sample is read; when one of the sample
    /// lacks a signature, all are read.
    ///
    /// # Errors
    /// When the bucket cannot be listed. An error that concerns one path is its [`Presence::Unknown`].
    pub async fn of(
        &self,
        wanted: &[Arc<PathInfo>],
        scan: NarinfoScan,
    ) -> Result<(HashMap<Arc<StorePath>, Presence>, Moment)> {
        let mut found = HashMap::with_capacity(wanted.len());
        if wanted.len() <= FEW {
            let at = Moment::now();
            self.read(wanted.to_vec(), &mut found).await;
            return Ok((found, at));
        }
        let sizes = scan.end(self.bucket, wanted.len()).await?;
        let (mut fitting, mut unclear) = (Vec::new(), Vec::new());
        for info in wanted.iter().cloned() {
            match sizes.found.get(info.path.digest()) {
                Some(size) if !self.read_all && fits(self.store_dir, &info, self.keys, *size) => {
                    fitting.push(info);
                }
                None if sizes.covers(&object_keys::narinfo(&info.path)) => {
                    found.insert(info.path.clone(), Presence::Absent);
                }
                _ => unclear.push(info),
            }
        }
        let at = sizes.at;
        drop(sizes);
        let sample = draw_sample(&mut fitting);
        let rest = fitting.split_off(sample);
        unclear.extend(fitting.iter().cloned());
        self.read(unclear, &mut found).await;
        // A narinfo of other contents tells nothing about the signatures on the rest.
        let is_sound = |info: &Arc<PathInfo>| {
            matches!(found.get(&info.path), Some(Presence::Complete | Presence::Differs))
        };
        if fitting.iter().all(is_sound) {
            found.extend(rest.iter().map(|info| (info.path.clone(), Presence::Complete)));
        } else {
            self.read(rest, &mut found).await;
        }
        Ok((found, at))
    }

    async fn read(&self, infos: Vec<Arc<PathInfo>>, found: &mut HashMap<Arc<StorePath>, Presence>) {
        let presence =
            |info: Arc<PathInfo>| async move { (info.path.clone(), self.read_narinfo(&info).await) };
        let mut answers = stream::iter(infos.into_iter().map(presence)).buffer_unordered(CONCURRENT);
        while let Some((path, presence)) = answers.next().await {
            found.insert(path, presence);
        }
    }

    async fn read_narinfo(&self, info: &PathInfo) -> Presence {
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

/// Moves a random sample to the front. The result is its size.
fn draw_sample<T>(all: &mut [T]) -> usize {
    let size = SAMPLE.min(all.len());
    for place in 0..size {
        let other = OsRng.next_u64() % (all.len() - place) as u64;
        all.swap(place, place + other as usize);
    }
    size
}
