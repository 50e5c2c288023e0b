//! A scan of the keys with a prefix, where a hash follows the prefix. A scan finds keys, and proves that other keys are
//! absent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Cursor, Depth, ObjectMeta};

/// A page of a listing costs about as much as this number of requests for single objects.
const REQUESTS_A_PAGE: usize = 20;
/// The number of pages from which the scan is split by the first character of the hash, so that several pages are
/// requested at the same time. The split costs half a page for each character.
const SPLIT: usize = 32;
/// The number of concurrent requests for pages.
const CONCURRENT: usize = 8;
/// The longest time that a scan takes. After that time, single questions take less.
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// The characters of nix-base32 in ascending order.
const ALPHABET: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// The largest number of pages that costs no more than a request for each of `wanted` objects.
fn pages_worth(wanted: usize) -> usize {
    (wanted / REQUESTS_A_PAGE).max(1)
}

/// A scan: the objects found so far, and the place where the scan continues.
#[derive(Debug)]
pub(super) struct PrefixScan<K, V> {
    prefix: &'static str,
    depth: Depth,
    /// The values read from keys and sizes.
    pub(super) found: HashMap<K, V>,
    /// When the scan began.
    pub(super) at: Moment,
    /// The longest time that the scan takes, counted from its beginning.
    longest: Duration,
    /// The scanned prefixes, and how far each is known.
    covered: Vec<(String, Reached)>,
    /// The number of pages so far.
    pages: usize,
    /// The place where the scan continues; `None` before the first page and after the last page.
    next: Option<Cursor>,
}

/// How far the keys of a prefix are known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reached {
    /// All keys.
    End,
    /// The keys that sort before this key.
    Key(String),
    /// No key: the listing is unfinished, and the server does not sort.
    Nowhere,
}

impl<K: Eq + Hash, V: Ord> PrefixScan<K, V> {
    /// A scan without pages. In all keys but a few, a hash in nix-base32 follows `prefix`.
    pub(super) fn new(prefix: &'static str, depth: Depth) -> Self {
        let (found, at) = (HashMap::new(), Moment::now());
        Self { prefix, depth, found, at, longest: LONGEST, covered: Vec::new(), pages: 0, next: None }
    }

    /// Whether the scan knows all keys that start with `prefix`.
    pub(super) fn covers(&self, prefix: &str) -> bool {
        self.covered.iter().any(|(start, reached)| {
            prefix.starts_with(start)
                && match reached {
                    Reached::End => true,
                    Reached::Nowhere => false,
                    Reached::Key(key) => prefix < key.as_str() && !key.starts_with(prefix),
                }
        })
    }

    /// Continues the scan up to `worth` pages or 10 minutes, counted from its beginning. `read` picks the values to keep.
    ///
    /// Hashes are spread evenly, so the first page tells the approximate number of pages. When that number is above
    /// `worth`, the scan stops: the part that it could cover would save less than it costs.
    ///
    /// # Errors
    /// When the bucket cannot be listed.
    pub(super) async fn run<F>(&mut self, bucket: &dyn Bucket, worth: usize, read: F) -> Result<()>
    where
        F: Fn(ObjectMeta) -> Option<(K, V)> + Sync,
    {
        while self.pages == 0 || (self.next.is_some() && self.pages < worth && !self.is_late()) {
            if let Some(((_, Reached::Key(key)), expected)) = self.covered.first().zip(self.expected()) {
                if expected > worth {
                    return Ok(());
                }
                if expected >= SPLIT {
                    let key = key.clone();
                    return self.split(bucket, worth, &key, read).await;
                }
            }
            let page = bucket.list(self.prefix, self.next.as_ref(), self.depth).await?;
            let before = self.covered.pop().map(|(_, reached)| reached);
            let reached = Reached::after(before, &page.objects, page.next.is_some());
            self.covered.push((self.prefix.to_owned(), reached));
            self.keep(page.objects.into_iter().filter_map(&read));
            self.next = page.next;
            self.pages += 1;
        }
        Ok(())
    }

    /// Keeps the values. Of several values of one key, the largest is kept.
    fn keep(&mut self, values: impl Iterator<Item = (K, V)>) {
        for (key, value) in values {
            match self.found.entry(key) {
                Entry::Occupied(mut kept) if *kept.get() < value => drop(kept.insert(value)),
                Entry::Occupied(_) => {}
                Entry::Vacant(place) => drop(place.insert(value)),
            }
        }
    }

    fn is_late(&self) -> bool {
        self.at.elapsed() > self.longest
    }

    /// The approximate number of pages, estimated from the part of the hashes that the scan has passed.
    fn expected(&self) -> Option<usize> {
        let (_, Reached::Key(key)) = self.covered.first()? else { return None };
        let mut digits = key.strip_prefix(self.prefix)?.chars().map(|letter| ALPHABET.find(letter));
        let (first, second) = (digits.next()??, digits.next()??);
        Some(self.pages * 1024 / (first * 32 + second + 1))
    }

    /// Scans the keys after `key`, by the first character of the hash.
    async fn split<F>(&mut self, bucket: &dyn Bucket, worth: usize, key: &str, read: F) -> Result<()>
    where
        F: Fn(ObjectMeta) -> Option<(K, V)> + Sync,
    {
        let pages_left = AtomicUsize::new(worth.saturating_sub(self.pages));
        let take_page = || {
            let take = |left: usize| left.checked_sub(1);
            !self.is_late() && pages_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        };
        let prefixes = ALPHABET.chars().map(|letter| format!("{}{letter}", self.prefix));
        let unscanned = prefixes.filter(|prefix| prefix.as_str() > key || key.starts_with(prefix.as_str()));
        let scan = async |prefix: String| {
            let (mut found, mut reached) = (Vec::new(), None);
            let mut next = key.starts_with(&prefix).then(|| Cursor::after(key));
            while !matches!(reached, Some(Reached::End)) && take_page() {
                let page = bucket.list(&prefix, next.as_ref(), self.depth).await?;
                reached = Some(Reached::after(reached, &page.objects, page.next.is_some()));
                found.extend(page.objects.into_iter().filter_map(&read));
                next = page.next;
            }
            Ok::<_, Error>((prefix, found, reached.unwrap_or(Reached::Nowhere)))
        };
        let mut parts = stream::iter(unscanned.map(scan)).buffer_unordered(CONCURRENT);
        let (mut all, mut covered) = (Vec::new(), Vec::new());
        while let Some((prefix, found, reached)) = parts.try_next().await? {
            all.push(found);
            covered.push((prefix, reached));
        }
        drop(parts);
        self.pages = worth - pages_left.into_inner();
        self.keep(all.into_iter().flatten());
        self.covered.extend(covered);
        self.next = None;
        Ok(())
    }
}

impl Reached {
    /// How far a prefix is known after a page with these objects. `before` is the state before that page; `truncated`
    /// says that more pages follow.
    fn after(before: Option<Self>, objects: &[ObjectMeta], truncated: bool) -> Self {
        if !truncated {
            return Self::End;
        }
        let last = match before {
            Some(Self::Nowhere) => return Self::Nowhere,
            Some(Self::Key(key)) => key,
            Some(Self::End) | None => String::new(),
        };
        let sorted = objects.iter().try_fold(last.as_str(), |last, object| {
            (last < object.key.as_str()).then_some(object.key.as_str())
        });
        sorted.map_or(Self::Nowhere, |last| Self::Key(last.to_owned()))
    }
}

/// Picks the values to keep of an object.
type Read<K, V> = fn(ObjectMeta) -> Option<(K, V)>;

/// A scan that runs in the background from its beginning, or not before its end.
#[derive(Debug)]
pub(super) struct BackgroundScan<K, V> {
    task: JoinSet<Result<PrefixScan<K, V>>>,
    /// The scan that has not begun.
    waiting: Option<PrefixScan<K, V>>,
    read: Read<K, V>,
}

impl<K: Eq + Hash + Send + Sync + 'static, V: Ord + Send + Sync + 'static> BackgroundScan<K, V> {
    /// A scan that runs when it is waited for.
    pub(super) fn later(scan: PrefixScan<K, V>, read: Read<K, V>) -> Self {
        Self { task: JoinSet::new(), waiting: Some(scan), read }
    }

    /// Begins a scan in the background. It ends after as many pages as `wanted` paths are worth.
    pub(super) fn begin(
        mut scan: PrefixScan<K, V>,
        read: Read<K, V>,
        bucket: &Arc<dyn Bucket>,
        wanted: usize,
    ) -> Self {
        let (bucket, mut task) = (bucket.clone(), JoinSet::new());
        task.spawn(async move {
            scan.run(&*bucket, pages_worth(wanted), read).await?;
            Ok(scan)
        });
        Self { task, waiting: None, read }
    }

    /// Waits for the scan, and continues it up to the number of pages that `wanted` paths are worth.
    ///
    /// # Errors
    /// When the bucket cannot be listed.
    pub(super) async fn end(mut self, bucket: &dyn Bucket, wanted: usize) -> Result<PrefixScan<K, V>> {
        let mut scan = match (self.waiting, self.task.join_next().await) {
            (Some(scan), _) => scan,
            (None, Some(Ok(scan))) => scan?,
            (None, ended) => {
                let error = Error::permanent(Area::General, "the task that lists the bucket ended early");
                return Err(match ended {
                    Some(Err(cause)) => error.because(cause),
                    _ => error,
                });
            }
        };
        scan.run(bucket, pages_worth(wanted), self.read).await?;
        Ok(scan)
    }
}

#[cfg(test)]
#[path = "prefix_scan_tests.rs"]
mod tests;
