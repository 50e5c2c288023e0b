use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::base::error::{Area, Error};
use crate::bucket::{AnonymousRead, Body, Condition, ContentType, ListPage, Multipart, Object, Put};

/// Keys in pages of ten, and the prefixes that were asked for.
#[derive(Debug, Default)]
struct Pages {
    keys: Vec<String>,
    sorted: bool,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Bucket for Pages {
    async fn list(&self, prefix: &str, after: Option<&Cursor>, _: Depth) -> Result<ListPage> {
        self.asked.lock().unwrap().push(prefix.to_owned());
        let mut keys: Vec<_> = self.keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        if self.sorted {
            keys.sort();
        }
        let start = after.map_or(0, |after| {
            keys.iter().position(|key| *after == Cursor::after(key)).unwrap_or_else(|| unreachable!()) + 1
        });
        let page: Vec<_> = keys[start..].iter().take(10).cloned().collect();
        let next = (start + 10 < keys.len()).then(|| Cursor::after(page.last().cloned().unwrap_or_default()));
        let objects = page.into_iter().map(|key| ObjectMeta { key, size: 1, etag: None }).collect();
        Ok(ListPage { objects, folders: Vec::new(), next })
    }

    fn address(&self) -> String {
        String::new()
    }
    async fn get(&self, _: &str) -> Result<Option<Object>> {
        Err(not_asked())
    }
    async fn head(&self, _: &str) -> Result<Option<ObjectMeta>> {
        Err(not_asked())
    }
    async fn put(&self, _: &str, _: Body, _: ContentType, _: Condition) -> Result<Put> {
        Err(not_asked())
    }
    async fn delete(&self, _: &str) -> Result<()> {
        Err(not_asked())
    }
    async fn start_multipart(&self, _: &str, _: ContentType) -> Result<Box<dyn Multipart>> {
        Err(not_asked())
    }
    async fn exists(&self) -> Result<bool> {
        Err(not_asked())
    }
    async fn create(&self) -> Result<()> {
        Err(not_asked())
    }
    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        Err(not_asked())
    }
    fn public_url(&self) -> String {
        String::new()
    }
}

fn not_asked() -> Error {
    Error::permanent(Area::General, "this is not asked here")
}

/// `count` keys whose hashes are spread evenly, in no order.
fn bucket(count: usize, sorted: bool) -> Pages {
    let key = |number: usize| {
        let digit = |place: usize| {
            char::from(ALPHABET.as_bytes()[(number * 7919 % count * 32768 / count) >> place & 31])
        };
        format!("{}{}{}{number:06}", digit(10), digit(5), digit(0))
    };
    Pages { keys: (0..count).map(key).collect(), sorted, ..Pages::default() }
}

async fn list(bucket: &Pages, worth: usize) -> (PrefixScan<String, u64>, Vec<String>) {
    let mut listed = PrefixScan::new("", Depth::OneLevel);
    listed.run(bucket, worth, |object| Some((object.key, object.size))).await.unwrap();
    (listed, bucket.asked.lock().unwrap().clone())
}

#[tokio::test]
async fn what_is_worth_it_is_listed_whole_whatever_the_number_of_keys() {
    for count in [0, 1, 9, 10, 11, 100, 250, 350, 2000] {
        for sorted in [true, false] {
            let bucket = bucket(count, sorted);
            let (listed, asked) = list(&bucket, 1000).await;
            assert_eq!(listed.found.len(), count);
            assert!(bucket.keys.iter().all(|key| listed.found.contains_key(key)));
            for key in ["0x", "ghost", "zzzzzz", "m"] {
                assert!(listed.covers(key), "{key} of {count}");
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
async fn the_first_page_tells_when_it_is_not_worth_it() {
    let (listed, asked) = list(&bucket(2000, true), 100).await;
    assert_eq!((asked.len(), listed.found.len()), (1, 10));
    assert!(listed.covers("00") && !listed.covers("0zz") && !listed.covers("m"));
}

#[tokio::test]
async fn what_was_not_worth_it_for_few_goes_on_for_more() {
    let bucket = bucket(200, true);
    let (mut listed, _) = list(&bucket, 3).await;
    assert!(!listed.covers("m"));
    listed.run(&bucket, 30, |object| Some((object.key, object.size))).await.unwrap();
    assert_eq!(listed.found.len(), 200);
    assert!(listed.covers("m") && listed.covers("zzz"));
    assert_eq!(bucket.asked.lock().unwrap().len(), 20, "no page twice");
}

#[tokio::test]
async fn an_unfinished_listing_that_is_not_sorted_proves_no_absence() {
    let (listed, asked) = list(&bucket(2000, false), 20).await;
    assert_eq!(asked.len(), 20);
    assert!(["0", "00", "m", "zzz"].iter().all(|key| !listed.covers(key)));
}
