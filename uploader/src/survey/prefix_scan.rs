//! Listings of keys that begin with a hash: what they show, and what they prove to be absent.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt, TryStreamExt, stream};

use crate::base::clock::Moment;
use crate::base::error::{Error, Result};
use crate::bucket::{Bucket, Cursor, Depth, ObjectMeta};

/// A page of a listing costs about as much as so many single questions; more pages than that are not worth it.
const QUESTIONS_A_PAGE: usize = 20;
/// From so many pages on, they are asked for by the first character of the hash, several at the same time. That costs
/// half a page more for each character.
const SPLIT: usize = 32;
/// Pages on their way at the same time.
const AT_ONCE: usize = 8;
/// The characters that a hash may begin with, in their order.
const ALPHABET: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// The pages that are worth it when so many objects are looked for.
pub(crate) fn worth(wanted: usize) -> usize {
    (wanted / QUESTIONS_A_PAGE).max(1)
}

/// What a listing has shown so far, and where it goes on.
#[derive(Debug)]
pub(crate) struct Listed<K, V> {
    prefix: &'static str,
    depth: Depth,
    /// What was read out of keys and sizes.
    pub(crate) found: HashMap<K, V>,
    /// When it began.
    pub(crate) at: Moment,
    /// Prefixes, and how far each was listed.
    covered: Vec<(String, Reached)>,
    pages: usize,
    next: Option<Cursor>,
}

/// Up to where the keys of a prefix are known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reached {
    /// All of them.
    End,
    /// Those that sort before this key.
    Key(String),
    /// None is: the listing is unfinished, and the server does not sort.
    Nowhere,
}

impl<K: Eq + Hash, V> Listed<K, V> {
    /// Nothing is listed yet. What follows `prefix` in a key is a hash in nix-base32, in all keys but a few.
    pub(crate) fn nothing(prefix: &'static str, depth: Depth) -> Self {
        let (found, at) = (HashMap::new(), Moment::now());
        Self { prefix, depth, found, at, covered: Vec::new(), pages: 0, next: None }
    }

    /// Whether the keys that start with `prefix` would have been found if there were any.
    pub(crate) fn covers(&self, prefix: &str) -> bool {
        self.covered.iter().any(|(start, reached)| {
            prefix.starts_with(start)
                && match reached {
                    Reached::End => true,
                    Reached::Nowhere => false,
                    Reached::Key(key) => prefix < key.as_str() && !key.starts_with(prefix),
                }
        })
    }

    /// Lists on, `worth` pages at most, counted from the beginning; `read` picks what is kept.
    ///
    /// Hashes are spread evenly, so that the first page tells about how many there are. If they are more than are worth
    /// it, the rest is left alone: what a few pages cover of the many would not pay for them either.
    pub(crate) async fn list<F>(&mut self, bucket: &dyn Bucket, worth: usize, read: F) -> Result<()>
    where
        F: Fn(ObjectMeta) -> Option<(K, V)> + Sync,
    {
        while self.pages == 0 || (self.next.is_some() && self.pages < worth) {
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
            self.found.extend(page.objects.into_iter().filter_map(&read));
            self.next = page.next;
            self.pages += 1;
        }
        Ok(())
    }

    /// About how many pages there are, by how far those that were listed have come.
    fn expected(&self) -> Option<usize> {
        let (_, Reached::Key(key)) = self.covered.first()? else { return None };
        let mut digits = key.strip_prefix(self.prefix)?.chars().map(|letter| ALPHABET.find(letter));
        let (first, second) = (digits.next()??, digits.next()??);
        Some(self.pages * 1024 / (first * 32 + second + 1))
    }

    /// Lists what comes after `key`, by characters.
    async fn split<F>(&mut self, bucket: &dyn Bucket, worth: usize, key: &str, read: F) -> Result<()>
    where
        F: Fn(ObjectMeta) -> Option<(K, V)> + Sync,
    {
        let left = AtomicUsize::new(worth.saturating_sub(self.pages));
        let take =
            || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let prefixes = ALPHABET.chars().map(|letter| format!("{}{letter}", self.prefix));
        let open = prefixes.filter(|prefix| prefix.as_str() > key || key.starts_with(prefix.as_str()));
        let one = async |prefix: String| {
            let (mut found, mut reached) = (Vec::new(), None);
            let mut next = key.starts_with(&prefix).then(|| Cursor::after(key));
            while !matches!(reached, Some(Reached::End)) && take() {
                let page = bucket.list(&prefix, next.as_ref(), self.depth).await?;
                reached = Some(Reached::after(reached, &page.objects, page.next.is_some()));
                found.extend(page.objects.into_iter().filter_map(&read));
                next = page.next;
            }
            Ok::<_, Error>((prefix, found, reached.unwrap_or(Reached::Nowhere)))
        };
        let mut parts = stream::iter(open.map(one)).buffer_unordered(AT_ONCE);
        let (mut all, mut covered) = (Vec::new(), Vec::new());
        while let Some((prefix, found, reached)) = parts.try_next().await? {
            all.push(found);
            covered.push((prefix, reached));
        }
        drop(parts);
        self.pages = worth - left.into_inner();
        self.found.extend(all.into_iter().flatten());
        self.covered.extend(covered);
        self.next = None;
        Ok(())
    }
}

impl Reached {
    /// How far a prefix is known after one more page.
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

#[cfg(test)]
#[path = "prefix_scan_tests.rs"]
mod tests;
