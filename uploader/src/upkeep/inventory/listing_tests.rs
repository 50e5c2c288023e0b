use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use nix_derivation::nixbase32;
use sha2::{Digest, Sha256};

use super::*;
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{
    AnonymousRead, Body, Condition, ContentType, Fence, Multipart, Object, ObjectMeta, Position, Put,
};

async fn put(bucket: &MemoryBucket, key: &str) {
    bucket.put(key, "x".into(), ContentType::Text, Condition::None).await.unwrap();
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

/// A bucket that only lists, page after page, as it was told.
#[derive(Debug)]
struct Pages {
    pages: Vec<Vec<String>>,
    /// Whether the first page follows the last.
    is_endless: bool,
    /// Whether a page fails.
    failing: Option<usize>,
}

impl Pages {
    /// Pages of a hundred of these keys.
    fn new(keys: &[String]) -> Self {
        let pages = keys.chunks(100).map(<[String]>::to_vec).collect();
        Self { pages, is_endless: false, failing: None }
    }
}

fn refused() -> Error {
    Error::transient(Area::Bucket, "this bucket only lists")
}

#[async_trait]
impl Bucket for Pages {
    fn fenced(self: Arc<Self>, _: Arc<dyn Fence>) -> Arc<dyn Bucket> {
        self
    }

    async fn list(&self, _: &str, after: Option<&Cursor>, _: Depth) -> Result<ListPage> {
        let number = match after {
            None => 0,
            Some(Cursor(Position::Token(number))) => number.parse().unwrap(),
            // A server without an order goes on behind the key, wherever it is.
            Some(Cursor(Position::Key(key))) => {
                self.pages.iter().position(|page| page.last() == Some(key)).map_or(0, |page| page + 1)
            }
        };
        if self.failing == Some(number) {
            return Err(refused());
        }
        let meta = |key: &String| ObjectMeta { key: key.clone(), size: 1, etag: None, age: None };
        let objects = self.pages.get(number).into_iter().flatten().map(meta).collect();
        let next = match number + 1 < self.pages.len() {
            true => Some(number + 1),
            false => self.is_endless.then_some(0),
        };
        let next = next.map(|next| Cursor(Position::Token(next.to_string())));
        Ok(ListPage { objects, next, ..ListPage::default() })
    }

    fn address(&self) -> String {
        "pages:".into()
    }
    async fn get(&self, _: &str) -> Result<Option<Object>> {
        Err(refused())
    }
    async fn get_part(&self, _: &str, _: u64, _: u64) -> Result<Option<Bytes>> {
        Err(refused())
    }
    async fn head(&self, _: &str) -> Result<Option<ObjectMeta>> {
        Err(refused())
    }
    async fn put(&self, _: &str, _: Body, _: ContentType, _: Condition) -> Result<Put> {
        Err(refused())
    }
    async fn delete(&self, _: &str) -> Result<()> {
        Err(refused())
    }
    async fn start_multipart(&self, _: &str, _: ContentType) -> Result<Box<dyn Multipart>> {
        Err(refused())
    }
    async fn exists(&self) -> Result<bool> {
        Err(refused())
    }
    async fn create(&self) -> Result<()> {
        Err(refused())
    }
    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        Err(refused())
    }
    fn public_url(&self) -> String {
        String::new()
    }
}

/// Keys of narinfos in the order of a hash, that is, in none.
fn unsorted(count: usize) -> Vec<String> {
    let hashes = (0..count).map(|number| Sha256::digest(format!("{number}")));
    hashes.map(|hash| format!("{}.narinfo", nixbase32::encode(&hash[..20]))).collect()
}

#[tokio::test]
async fn a_server_without_an_order_is_listed_to_its_end() {
    let mut keys = unsorted(3000);
    assert_eq!(list(&Pages::new(&keys)).await.unwrap().narinfos.len(), 3000);
    // The first pages are in order, so that the disorder shows only in a part.
    keys[..1000].sort();
    assert_eq!(list(&Pages::new(&keys)).await.unwrap().narinfos.len(), 3000);
}

#[tokio::test]
async fn a_listing_that_fails_or_never_ends_proves_nothing() {
    let mut keys = unsorted(3000);
    for _ in 0..2 {
        for failing in [0, 3, 7, 29] {
            let pages = Pages { failing: Some(failing), ..Pages::new(&keys) };
            assert!(list(&pages).await.is_err(), "{failing}");
        }
        let pages = Pages { is_endless: true, ..Pages::new(&keys) };
        assert!(list(&pages).await.unwrap_err().to_string().contains("no end"));
        // In order, and again from the beginning.
        keys.sort();
    }
    assert_eq!(list(&Pages::new(&[])).await.unwrap().narinfos.len(), 0);
}
