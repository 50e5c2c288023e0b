//! The presence of paths. For a few paths, the survey reads each narinfo; for many paths, it lists the bucket.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, stream};
use nix_derivation::{StorePath, nixbase32};
use rand_core::{OsRng, RngCore};

use super::examination::Examiner;
use super::nars::{self, NarScan};
use super::prefix_scan::{BackgroundScan, PrefixScan};
use super::presence::Presence;
use crate::base::clock::Moment;
use crate::base::error::Result;
use crate::bucket::{Bucket, Depth, ObjectMeta};
use crate::format::narinfo::fits;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;

/// The largest number of paths whose narinfos are read without a listing.
pub const FEW: usize = 64;
/// The number of concurrent requests for narinfos.
const CONCURRENT: usize = 48;
/// The number of narinfos that are read although their listed size is the expected one.
const SAMPLE: usize = 16;

/// The sizes of the narinfos in the bucket, by the hash part of their store path.
type Sizes = PrefixScan<[u8; 20], u64>;

/// A scan of the bucket's narinfos and NARs that runs in the background.
#[derive(Debug)]
pub struct BucketScan {
    narinfos: BackgroundScan<[u8; 20], u64>,
    nars: nars::Background,
}

impl BucketScan {
    /// Begins to scan when at least `wanted` paths will be asked about and that number is above [`FEW`].
    pub fn begin(bucket: &Arc<dyn Bucket>, wanted: usize) -> Self {
        let sizes = Sizes::new("", Depth::OneLevel);
        if wanted <= FEW {
            let narinfos = BackgroundScan::later(sizes, narinfo_size);
            return Self { narinfos, nars: NarScan::in_background(None) };
        }
        let narinfos = BackgroundScan::begin(sizes, narinfo_size, bucket, wanted);
        Self { narinfos, nars: NarScan::in_background(Some((bucket, wanted))) }
    }

    /// Waits for the scan, and continues it up to the number of pages that `wanted` paths are worth.
    async fn end(self, bucket: &dyn Bucket, wanted: usize) -> Result<(Sizes, NarScan)> {
        let (narinfos, nars) = (self.narinfos.end(bucket, wanted), self.nars.end(bucket, wanted));
        let (narinfos, nars) = futures::future::try_join(narinfos, nars).await?;
        Ok((narinfos, NarScan::of(nars)))
    }
}

fn narinfo_size(object: ObjectMeta) -> Option<([u8; 20], u64)> {
    let hash = nixbase32::decode(object_keys::narinfo_hash(&object.key)?.as_bytes()).ok()?;
    Some((hash.try_into().ok()?, object.size))
}

/// A survey: which paths a client can take from the bucket.
#[derive(Clone, Copy, Debug)]
pub struct Survey<'a> {
    /// Examines paths whose narinfos are read.
    pub examiner: Examiner<'a>,
    /// Read each narinfo, also those that a listing shows with the expected size.
    pub read_all: bool,
    /// The paths whose narinfos are read in any case.
    pub doubted: &'a BTreeSet<StorePath>,
}

/// The result of a survey.
#[derive(Debug)]
pub struct Surveyed {
    /// The presence of each path.
    pub presence: HashMap<Arc<StorePath>, Presence>,
    /// The time since which the answers are known to hold.
    pub at: Moment,
    /// The NARs in the bucket, as far as they were listed.
    pub nars: NarScan,
}

impl Survey<'_> {
    /// Finds the presence of each path.
    ///
    /// The narinfos of [`FEW`] or fewer paths are read and judged, and their NARs are looked up. For more paths, a
    /// listing tells which narinfos exist, and their sizes, and another tells the same of the NARs. A narinfo of the
    /// size that ours must have, for which a NAR is listed, counts as complete; every other narinfo is read, and so are
    /// those of [`Survey::doubted`]. Of the narinfos that would count as complete, a random sample is read. When a client
    /// cannot take a path of the sample, or it lacks a signature, all are read.
    ///
    /// # Errors
    /// When the bucket cannot be listed. An error that concerns one path is its [`Presence::Unknown`].
    pub async fn of(&self, wanted: &[Arc<PathInfo>], scan: BucketScan) -> Result<Surveyed> {
        if wanted.len() <= FEW {
            let (mut presence, at, nars) =
                (HashMap::with_capacity(wanted.len()), Moment::now(), NarScan::default());
            self.read(wanted.to_vec(), &nars, &mut presence).await;
            return Ok(Surveyed { presence, at, nars });
        }
        let Examiner { bucket, judge, .. } = self.examiner;
        let (sizes, nars) = scan.end(bucket, wanted.len()).await?;
        let mut presence = HashMap::with_capacity(wanted.len());
        let (mut expected, mut unclear) = (Vec::new(), Vec::new());
        for info in wanted.iter().cloned() {
            let must_read = self.read_all || self.doubted.contains(&*info.path);
            let fits = |size: u64| fits(judge.store_dir, &info, judge.keys, size);
            match sizes.found.get(info.path.digest()) {
                Some(size) if !must_read && fits(*size) && nars.get(&info).is_some() => expected.push(info),
                None if sizes.covers(&object_keys::narinfo(&info.path)) => {
                    presence.insert(info.path.clone(), Presence::Absent);
                }
                _ => unclear.push(info),
            }
        }
        let at = sizes.at.min(nars.at());
        drop(sizes);
        let rest = draw_sample(&mut expected);
        unclear.extend(expected.iter().cloned());
        self.read(unclear, &nars, &mut presence).await;
        if expected.iter().all(|info| is_sound(presence.get(&info.path))) {
            presence.extend(rest.into_iter().map(|info| (info.path.clone(), Presence::Complete)));
        } else {
            self.read(rest, &nars, &mut presence).await;
        }
        Ok(Surveyed { presence, at, nars })
    }

    async fn read(
        &self,
        infos: Vec<Arc<PathInfo>>,
        nars: &NarScan,
        found: &mut HashMap<Arc<StorePath>, Presence>,
    ) {
        let examine = |info: Arc<PathInfo>| async move {
            (info.path.clone(), self.examiner.examine(&info, Some(nars)).await.presence)
        };
        let mut answers = stream::iter(infos.into_iter().map(examine)).buffer_unordered(CONCURRENT);
        while let Some((path, presence)) = answers.next().await {
            found.insert(path, presence);
        }
    }
}

/// Whether a narinfo of the sample says nothing against the rest. Another build tells nothing about the rest.
fn is_sound(presence: Option<&Presence>) -> bool {
    matches!(presence, Some(Presence::Complete | Presence::Differs { .. }))
}

/// Leaves a random sample in `all`, and takes the rest out.
fn draw_sample<T>(all: &mut Vec<T>) -> Vec<T> {
    let size = SAMPLE.min(all.len());
    for place in 0..size {
        let other = OsRng.next_u64() % (all.len() - place) as u64;
        all.swap(place, place + other as usize);
    }
    all.split_off(size)
}

#[cfg(test)]
#[path = "narinfos_tests.rs"]
mod tests;
