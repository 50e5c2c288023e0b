//! What the bucket has of a set of paths: asked one by one when they are few, by listing when they are many.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, stream};
use nix_derivation::{StoreDir, StorePath};

use super::clock::Moment;
use super::plan::Presence;
use crate::bucket::{Bucket, Cursor, Depth};
use crate::cache::keys;
use crate::cache::narinfo::{NarObject, Standing, standing};
use crate::cache::signing::SecretKey;
use crate::error::Result;
use crate::store::PathInfo;

/// Up to so many paths, each is asked for by itself.
const FEW: usize = 64;
/// A page of a listing costs about as much as so many single questions; more pages than that are not worth it.
const QUESTIONS_A_PAGE: usize = 20;
/// Questions on their way at the same time.
const AT_ONCE: usize = 48;

/// Asks for the narinfo of each path and compares it with the store's.
///
/// # Errors
/// Only of the listing; an error that concerns one path stands in its place as [`Presence::Unknown`].
pub async fn narinfos(
    bucket: &dyn Bucket,
    store_dir: &StoreDir,
    keys: &[SecretKey],
    wanted: &[Arc<PathInfo>],
) -> Result<HashMap<StorePath, Presence>> {
    let absent = if wanted.len() > FEW {
        not_listed(bucket, wanted.iter().map(|info| keys::narinfo(&info.path)).collect()).await?
    } else {
        BTreeSet::new()
    };
    let ask = |info: &Arc<PathInfo>| {
        let (info, key) = (info.clone(), keys::narinfo(&info.path));
        let absent = absent.contains(&key);
        async move {
            let presence =
                if absent { Presence::Absent } else { narinfo(bucket, store_dir, keys, &info).await };
            (info.path.clone(), presence)
        }
    };
    Ok(stream::iter(wanted.iter().map(ask)).buffer_unordered(AT_ONCE).collect().await)
}

/// Asks for one narinfo.
pub async fn narinfo(
    bucket: &dyn Bucket,
    store_dir: &StoreDir,
    keys: &[SecretKey],
    info: &PathInfo,
) -> Presence {
    let compared = match bucket.get(&keys::narinfo(&info.path)).await {
        Ok(None) => return Presence::Absent,
        Ok(Some(object)) => standing(store_dir, info, &object.body, keys),
        Err(error) => Err(error),
    };
    match compared {
        Ok(Standing::Complete) => Presence::Complete,
        Ok(Standing::LacksSignatures(_)) => Presence::LacksSignatures,
        Ok(Standing::Differs) => Presence::Differs,
        Err(error) => Presence::Unknown(error),
    }
}

/// Those of `wanted` that a listing of the bucket's top level proves to be absent. Keys that the listing did not reach
/// within its worth are not among them.
async fn not_listed(bucket: &dyn Bucket, wanted: BTreeSet<String>) -> Result<BTreeSet<String>> {
    let mut absent = wanted.clone();
    let mut pages = Pages::new(bucket, "", Depth::OneLevel, wanted.len());
    while let Some(keys) = pages.next().await? {
        for (key, _) in keys {
            absent.remove(&key);
        }
    }
    match pages.reached() {
        Reached::End => {}
        Reached::Key(reached) => drop(absent.split_off(&reached)),
        Reached::Nowhere => absent.clear(),
    }
    Ok(absent)
}

/// NARs of ours that are in the bucket, as far as a listing of them is worth it for `wanted` NARs.
pub struct Nars {
    known: HashMap<[u8; 32], NarObject>,
    /// When the listing began.
    at: Moment,
    reached: Reached,
}

/// Up to where a listing tells what is absent.
enum Reached {
    /// All of it.
    End,
    /// What sorts before this key.
    Key(String),
    /// It tells nothing: it is unfinished, and the server does not sort.
    Nowhere,
}

impl Nars {
    /// Knows of none and of no absence.
    pub fn unknown() -> Self {
        Self { known: HashMap::new(), at: Moment::now(), reached: Reached::Nowhere }
    }

    /// Lists them when `wanted` of them are looked for and that is many.
    pub async fn list(bucket: &dyn Bucket, wanted: usize) -> Result<Self> {
        if wanted <= FEW {
            return Ok(Self::unknown());
        }
        let (mut known, at) = (HashMap::new(), Moment::now());
        let mut pages = Pages::new(bucket, keys::NARS, Depth::Flat, wanted);
        while let Some(keys) = pages.next().await? {
            known.extend(keys.into_iter().filter_map(|(key, size)| object(key, size)));
        }
        Ok(Self { known, at, reached: pages.reached() })
    }

    /// Whether a listing has shown an object with these contents.
    pub fn knows(&self, nar_hash: &[u8; 32]) -> bool {
        self.known.contains_key(nar_hash)
    }

    /// An object with these contents, if there is one; the bucket is asked where the listing does not tell.
    /// With it comes when it was there.
    pub async fn find(
        &self,
        bucket: &dyn Bucket,
        nar_hash: &[u8; 32],
    ) -> Result<Option<(NarObject, Moment)>> {
        let prefix = keys::nar_prefix(nar_hash);
        let listed = match &self.reached {
            Reached::End => true,
            Reached::Nowhere => false,
            Reached::Key(reached) => prefix.as_str() < reached.as_str() && !reached.starts_with(&prefix),
        };
        if let Some(object) = self.known.get(nar_hash) {
            return Ok(Some((object.clone(), self.at)));
        }
        if listed {
            return Ok(None);
        }
        let at = Moment::now();
        let page = bucket.list(&prefix, None, Depth::Flat).await?;
        let found = page.objects.into_iter().find_map(|meta| object(meta.key, meta.size));
        Ok(found.map(|(_, object)| (object, at)))
    }
}

fn object(key: String, size: u64) -> Option<([u8; 32], NarObject)> {
    let (hash, compression) = keys::parse_nar(&key)?;
    Some((hash, NarObject { key, compression, file_hash: None, file_size: Some(size) }))
}

/// The pages of a listing, as many as are worth it.
struct Pages<'a> {
    bucket: &'a dyn Bucket,
    prefix: &'a str,
    depth: Depth,
    left: usize,
    cursor: Option<Cursor>,
    last: String,
    sorted: bool,
    done: bool,
}

impl<'a> Pages<'a> {
    fn new(bucket: &'a dyn Bucket, prefix: &'a str, depth: Depth, wanted: usize) -> Self {
        let left = (wanted / QUESTIONS_A_PAGE).max(1);
        Self { bucket, prefix, depth, left, cursor: None, last: String::new(), sorted: true, done: false }
    }

    /// Keys and sizes of the next page.
    async fn next(&mut self) -> Result<Option<Vec<(String, u64)>>> {
        if self.done || self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let page = self.bucket.list(self.prefix, self.cursor.as_ref(), self.depth).await?;
        self.done = page.next.is_none();
        self.cursor = page.next;
        for meta in &page.objects {
            self.sorted &= self.last < meta.key;
            self.last.clone_from(&meta.key);
        }
        Ok(Some(page.objects.into_iter().map(|meta| (meta.key, meta.size)).collect()))
    }

    /// How much the pages so far tell.
    fn reached(&self) -> Reached {
        match (self.done, self.sorted) {
            (true, _) => Reached::End,
            (false, true) => Reached::Key(self.last.clone()),
            (false, false) => Reached::Nowhere,
        }
    }
}
