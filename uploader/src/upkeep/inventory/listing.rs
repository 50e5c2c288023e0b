//! Lists all keys of a bucket. A large bucket is listed in several parts at the same time.

use std::sync::Mutex;

use futures::{StreamExt, TryStreamExt, stream};

use super::objects::Listed;
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::bucket::{Bucket, Cursor, Depth, ListPage};
use crate::format::object_keys::NARS;

/// The number of parts that are listed at the same time.
const CONCURRENT: usize = 8;
/// The number of pages after which a bucket may be listed in parts. They show how many pages follow.
const FEW: usize = 4;
/// The number of pages that make a part worthwhile. Each part costs a page more, and some servers look for its beginning.
const WORTH: usize = 32;
/// The largest number of pages of a bucket: a billion keys. A server that never ends is refused.
const MOST: usize = 1_000_000;
/// The characters of nix-base32 in ascending order.
const ALPHABET: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// Lists all objects of a bucket.
///
/// # Errors
/// When the bucket cannot be listed to the end.
pub(super) async fn list(bucket: &dyn Bucket) -> Result<Listed> {
    let listed = Mutex::new(Listed::default());
    let mut part = Part { after: None, end: None, last: String::new(), pages: 0 };
    while part.pages < FEW {
        match part.next(bucket, &listed).await? {
            Step::More => {}
            Step::End => return Ok(ended(listed)),
            Step::Unsorted => return whole(bucket).await,
        }
    }
    let parts = split(&part.last, expected(&part.last, part.pages) / WORTH);
    let parts = parts.into_iter().map(|part| part.run(bucket, &listed));
    let sorted: Vec<bool> = stream::iter(parts).buffer_unordered(CONCURRENT).try_collect().await?;
    // The order of keys is what makes parts whole. A server without it is listed from the beginning, page by page.
    if sorted.into_iter().all(|sorted| sorted) { Ok(ended(listed)) } else { whole(bucket).await }
}

/// Lists the pages in the order of the server.
async fn whole(bucket: &dyn Bucket) -> Result<Listed> {
    let listed = Mutex::new(Listed::default());
    let (mut next, mut before) = (None, None);
    for _ in 0..MOST {
        let page = bucket.list("", next.as_ref(), Depth::Flat).await?;
        let first = page.objects.first().map(|object| object.key.clone());
        // A server that repeats a page would fill the memory.
        if first.is_some() && first == before {
            break;
        }
        before = first;
        page.objects.iter().for_each(|object| lock(&listed).add(object));
        next = page.next;
        if next.is_none() {
            return Ok(ended(listed));
        }
    }
    Err(endless(bucket))
}

fn ended(listed: Mutex<Listed>) -> Listed {
    let mut listed = listed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    listed.sort();
    listed
}

fn endless(bucket: &dyn Bucket) -> Error {
    Error::permanent(Area::Bucket, format!("cannot list `{}`", bucket.address()))
        .because("the listing has no end")
}

/// The approximate number of pages of a bucket, of which `pages` end with the key `last`. Hashes are spread evenly, and there
/// are about as many NARs as narinfos.
fn expected(last: &str, pages: usize) -> usize {
    let mut digits = last.chars().map(|letter| ALPHABET.find(letter));
    let (Some(Some(first)), Some(Some(second))) = (digits.next(), digits.next()) else { return pages };
    2 * pages * 1024 / (first * 32 + second + 1)
}

/// About `count` parts that together have all keys after `last`.
fn split(last: &str, count: usize) -> Vec<Part> {
    let letters = || ALPHABET.chars().map(String::from);
    let nars = letters().map(|letter| format!("{NARS}{letter}"));
    let mut bounds: Vec<_> = letters().chain(nars).filter(|bound| bound.as_str() > last).collect();
    bounds.sort();
    // Fewer parts than characters: only some of the bounds.
    let step = (bounds.len() + 1).div_ceil(count.max(1));
    let bounds: Vec<_> = bounds.into_iter().skip(step - 1).step_by(step).collect();
    let starts = std::iter::once(last.to_owned()).chain(bounds.clone());
    let ends = bounds.into_iter().map(Some).chain([None]);
    starts
        .zip(ends)
        .map(|(start, end)| Part { after: Some(Cursor::after(start.clone())), end, last: start, pages: 0 })
        .collect()
}

/// The keys after one key, up to and with another.
struct Part {
    /// Where the next page begins.
    after: Option<Cursor>,
    /// The last key that can belong to the part; `None` if the part ends with the bucket.
    end: Option<String>,
    /// The last key so far. The keys after it follow in ascending order.
    last: String,
    pages: usize,
}

/// What follows after a page.
enum Step {
    /// Another page.
    More,
    /// The part is complete.
    End,
    /// The server does not sort.
    Unsorted,
}

impl Part {
    /// Lists the part. Returns whether the keys were in ascending order; otherwise the part may be incomplete.
    async fn run(mut self, bucket: &dyn Bucket, listed: &Mutex<Listed>) -> Result<bool> {
        while self.pages < MOST {
            match self.next(bucket, listed).await? {
                Step::More => {}
                Step::End => return Ok(true),
                Step::Unsorted => return Ok(false),
            }
        }
        Err(endless(bucket))
    }

    async fn next(&mut self, bucket: &dyn Bucket, listed: &Mutex<Listed>) -> Result<Step> {
        let page = bucket.list("", self.after.as_ref(), Depth::Flat).await?;
        self.pages += 1;
        let step = self.take(&page, &mut lock(listed));
        self.after = page.next;
        Ok(step)
    }

    fn take(&mut self, page: &ListPage, listed: &mut Listed) -> Step {
        for object in &page.objects {
            if self.end.as_ref().is_some_and(|end| object.key > *end) {
                return Step::End;
            }
            if object.key <= self.last && !self.last.is_empty() {
                return Step::Unsorted;
            }
            self.last.clone_from(&object.key);
            listed.add(object);
        }
        if page.next.is_none() { Step::End } else { Step::More }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::memory::MemoryBucket;
    use crate::bucket::{Condition, ContentType};
    use nix_derivation::nixbase32;
    use sha2::{Digest, Sha256};

    async fn put(bucket: &MemoryBucket, key: &str) {
        bucket.put(key, "x".into(), ContentType::Text, Condition::None).await.unwrap();
    }

    #[test]
    fn a_bucket_is_split_into_the_wanted_number_of_parts() {
        for (count, parts) in [(0, 1), (1, 1), (2, 2), (8, 8), (1000, 64)] {
            assert_eq!(split("0", count).len(), parts, "{count}");
        }
        // After a tenth of the narinfos.
        assert_eq!(expected("37c", 100), 1969);
        assert_eq!(expected("nix-cache-info", 100), 283);
        assert_eq!(expected("é", 100), 100);
    }

    #[tokio::test]
    async fn a_large_bucket_is_listed_to_its_last_key() {
        let bucket = MemoryBucket::default();
        for number in 0..6000 {
            let hash = Sha256::digest(format!("{number}"));
            put(&bucket, &format!("{}.narinfo", nixbase32::encode(&hash[..20]))).await;
            put(&bucket, &format!("nar/{}.nar.xz", nixbase32::encode(&hash))).await;
        }
        // Keys at the edges of parts, and keys that begin with no character of a hash.
        let odd = ["!", "0", "A", "e", "m", "nar/0", "nar/a/b", "nar/~", "o", "z", "zz", "~", "é"];
        for key in odd {
            put(&bucket, key).await;
        }
        let listed = list(&bucket).await.unwrap();
        assert_eq!(listed.narinfos.len(), 6000);
        assert_eq!(listed.nars.len() + listed.others.len(), 6000 + odd.len());
        assert!(odd.iter().all(|key| listed.others.find(key).is_some() || listed.nars.find(key).is_some()));
    }
}
