use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::base::error::{Area, Error};
use crate::bucket::{AnonymousRead, Body, Condition, ContentType, Fence, ListPage, Multipart, Object, Put};

/// A bucket that lists its keys in pages of ten, and records the prefixes of all requests.
#[derive(Debug, Default)]
struct Pages {
    keys: Vec<String>,
    sorted: bool,
    /// Whether each page is the first page, and the server says that more pages follow.
    endless: bool,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Bucket for Pages {
    fn fenced(self: Arc<Self>, _: Arc<dyn Fence>) -> Arc<dyn Bucket> {
        self
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, _: Depth) -> Result<ListPage> {
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(prefix.to_owned());
            asked.len()
        };
        let mut keys: Vec<_> = self.keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        if self.sorted {
            keys.sort();
        }
        let start = after.filter(|_| !self.endless).map_or(0, |after| {
            keys.iter().position(|key| *after == Cursor::after(key)).unwrap_or_else(|| unreachable!()) + 1
        });
        let page: Vec<_> = keys[start..].iter().take(10).cloned().collect();
        let next = (start + 10 < keys.len()).then(|| Cursor::after(page.last().cloned().unwrap_or_default()));
        let next = if self.endless { Some(Cursor::after(number.to_string())) } else { next };
        let objects =
            page.into_iter().map(|key| ObjectMeta { key, size: 1, etag: None, age: None }).collect();
        Ok(ListPage { objects, folders: Vec::new(), next })
    }

    fn address(&self) -> String {
        String::new()
    }
    async fn get(&self, _: &str) -> Result<Option<Object>> {
        Err(unsupported())
    }
    async fn get_part(&self, _: &str, _: u64, _: u64) -> Result<Option<Bytes>> {
        Err(unsupported())
    }
    async fn head(&self, _: &str) -> Result<Option<ObjectMeta>> {
        Err(unsupported())
    }
    async fn put(&self, _: &str, _: Body, _: ContentType, _: Condition) -> Result<Put> {
        Err(unsupported())
    }
    async fn delete(&self, _: &str) -> Result<()> {
        Err(unsupported())
    }
    async fn start_multipart(&self, _: &str, _: ContentType) -> Result<Box<dyn Multipart>> {
        Err(unsupported())
    }
    async fn exists(&self) -> Result<bool> {
        Err(unsupported())
    }
    async fn create(&self) -> Result<()> {
        Err(unsupported())
    }
    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        Err(unsupported())
    }
    fn public_url(&self) -> String {
        String::new()
    }
}

fn unsupported() -> Error {
    Error::permanent(Area::General, "this bucket only lists")
}

/// A bucket with `count` keys in no order. Their hashes are spread evenly.
fn bucket(count: usize, sorted: bool) -> Pages {
    let key = |number: usize| {
        let digit = |place: usize| {
            char::from(ALPHABET.as_bytes()[(number * 7919 % count * 32768 / count) >> place & 31])
        };
        format!("{}{}{}{number:06}", digit(10), digit(5), digit(0))
    };
    Pages { keys: (0..count).map(key).collect(), sorted, ..Pages::default() }
}

async fn scan(bucket: &Pages, worth: usize) -> (PrefixScan<String, u64>, Vec<String>) {
    let mut scan = PrefixScan::new("", Depth::OneLevel);
    scan.run(bucket, worth, |object| Some((object.key, object.size))).await.unwrap();
    (scan, bucket.asked.lock().unwrap().clone())
}

#[tokio::test]
async fn a_scan_that_is_worth_it_finds_all_keys_of_any_number() {
    for count in [0, 1, 9, 10, 11, 100, 250, 350, 2000] {
        for sorted in [true, false] {
            let bucket = bucket(count, sorted);
            let (scanned, asked) = scan(&bucket, 1000).await;
            assert_eq!(scanned.found.len(), count);
            assert!(bucket.keys.iter().all(|key| scanned.found.contains_key(key)));
            for key in ["0x", "ghost", "zzzzzz", "m"] {
                assert!(scanned.covers(key), "{key} of {count}");
            }
            assert!(asked.len() <= count / 10 + 1 + 32, "{} pages for {count} keys", asked.len());
            assert_eq!(
                asked.iter().any(|prefix| !prefix.is_empty()),
                sorted && count > 10 * SPLIT,
                "{count}"
            );
        }
    }
}

#[tokio::test]
async fn a_scan_that_is_not_worth_it_ends_after_the_first_page() {
    let (scanned, asked) = scan(&bucket(2000, true), 100).await;
    assert_eq!((asked.len(), scanned.found.len()), (1, 10));
    assert!(scanned.covers("00") && !scanned.covers("0zz") && !scanned.covers("m"));
}

#[tokio::test]
async fn a_scan_continues_when_more_pages_are_worth_it() {
    let bucket = bucket(200, true);
    let (mut scanned, _) = scan(&bucket, 3).await;
    assert!(!scanned.covers("m"));
    scanned.run(&bucket, 30, |object| Some((object.key, object.size))).await.unwrap();
    assert_eq!(scanned.found.len(), 200);
    assert!(scanned.covers("m") && scanned.covers("zzz"));
    assert_eq!(bucket.asked.lock().unwrap().len(), 20, "no page twice");
}

#[tokio::test]
async fn an_unfinished_scan_of_an_unsorted_listing_proves_no_absence() {
    let (scanned, asked) = scan(&bucket(2000, false), 20).await;
    assert_eq!(asked.len(), 20);
    assert!(["0", "00", "m", "zzz"].iter().all(|key| !scanned.covers(key)));
}

#[tokio::test]
async fn a_scan_that_takes_too_long_ends() {
    for longest in [Duration::ZERO, LONGEST] {
        let bucket = bucket(2000, true);
        let mut scan = PrefixScan::new("", Depth::OneLevel);
        scan.longest = longest;
        while scan.at.elapsed() == Duration::ZERO {
            std::thread::yield_now();
        }
        scan.run(&bucket, 1000, |object| Some((object.key, object.size))).await.unwrap();
        let pages = bucket.asked.lock().unwrap().len();
        assert_eq!((pages > 1, scan.covers("m")), (longest == LONGEST, longest == LONGEST), "{pages} pages");
    }
}

#[tokio::test]
async fn a_listing_without_end_ends_when_it_is_not_worth_it_and_proves_no_absence() {
    for sorted in [true, false] {
        let endless = Pages { endless: true, ..bucket(2000, sorted) };
        for worth in [5, 40, 400] {
            endless.asked.lock().unwrap().clear();
            let (scanned, asked) = scan(&endless, worth).await;
            assert!(asked.len() <= worth, "{} pages", asked.len());
            assert!(!scanned.covers("zz"), "{worth} pages");
        }
    }
}
