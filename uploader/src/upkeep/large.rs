//! A bucket of any number of paths, whose objects are computed when somebody asks for them: a test that measures memory
//! then measures only what larder needs. What is written lives in a bucket in memory, and is listed by its prefix only.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nix_derivation::StorePath;
use nix_derivation::nixbase32;
use nix_derivation::store_path::StoreDir;
use nix_narinfo::TrustedPublicKey;
use sha2::{Digest, Sha256};

use super::inventory::Options;
use crate::base::error::Result;
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{
    AnonymousRead, Body, Bucket, Condition, ContentType, Cursor, Depth, Fence, ListPage, Multipart, Object,
    ObjectMeta, Position, Put, Unfinished,
};
use crate::format::narinfo::{NarObject, compose};
use crate::format::object_keys::{self, Compression};
use crate::format::path_info::PathInfo;
use crate::format::signature::SecretKey;

/// The number of references of each path, to paths with smaller numbers.
const REFERENCES: u32 = 8;
/// The number of keys in a page.
const PAGE: usize = 1000;
/// The bit that marks a NAR among the keys.
const NAR: u32 = 1 << 31;
/// The size of every NAR object and of every NAR.
const SIZE: (u64, u64) = (30_000, 100_000);
/// The line before the signature of a narinfo.
const SIGNATURE: &str = "Sig: large-1:";

/// A bucket of paths with numbers.
#[derive(Clone, Debug)]
pub(crate) struct LargeBucket {
    written: MemoryBucket,
    public: TrustedPublicKey,
    /// The end of each narinfo, its signature.
    signatures: Vec<[u8; 88]>,
    /// The size of each narinfo.
    sizes: Vec<u16>,
    /// The numbers of the paths, and with [`NAR`] of their NARs, in the order of their keys.
    keys: Vec<u32>,
    /// The hash parts of the paths, ascending, with their numbers.
    digests: Vec<([u8; 20], u32)>,
}

impl LargeBucket {
    /// A bucket of this many paths. To sign them takes a minute for a million.
    pub(crate) fn new(paths: u32) -> Self {
        let key = SecretKey::generate("large-1").unwrap();
        let sign = |number: u32| {
            let narinfo = String::from_utf8(narinfo(number, std::slice::from_ref(&key))).unwrap();
            let (_, signature) = narinfo.trim_end().split_once(SIGNATURE).unwrap();
            (<[u8; 88]>::try_from(signature.as_bytes()).unwrap(), narinfo.len() as u16)
        };
        let half = paths / 2;
        let signed = std::thread::scope(|scope| {
            let first = scope.spawn(|| (0..half).map(sign).collect::<Vec<_>>());
            let second: Vec<_> = (half..paths).map(sign).collect();
            [first.join().unwrap(), second].concat()
        });
        let (signatures, sizes) = signed.into_iter().unzip();
        let mut keys: Vec<_> = (0..paths).flat_map(|number| [number, number | NAR]).collect();
        keys.sort_by_cached_key(|number| key_of(*number));
        let mut digests: Vec<_> = (0..paths).map(|number| (*path(number).digest(), number)).collect();
        digests.sort_unstable();
        Self { written: MemoryBucket::default(), public: key.public(), signatures, sizes, keys, digests }
    }

    /// The options of an inventory that trusts the key of the paths.
    pub(crate) fn options(&self) -> Options {
        Options { store_dir: StoreDir::default(), trusted: vec![self.public.clone()] }
    }

    /// The number of the object with this key.
    fn number(&self, key: &str) -> Option<u32> {
        if let Some(hash) = object_keys::narinfo_hash(key) {
            let digest: [u8; 20] = nixbase32::decode(hash.as_bytes()).ok()?.try_into().ok()?;
            let place = self.digests.binary_search_by_key(&digest, |(digest, _)| *digest).ok()?;
            return Some(self.digests[place].1);
        }
        let place = self.keys.binary_search_by(|number| key_of(*number).as_str().cmp(key)).ok()?;
        Some(self.keys[place])
    }

    fn body(&self, number: u32) -> Bytes {
        let mut body = narinfo(number, &[]);
        body.extend(SIGNATURE.as_bytes());
        body.extend(self.signatures[number as usize]);
        body.push(b'\n');
        body.into()
    }

    fn meta(&self, number: u32) -> ObjectMeta {
        let size = if number & NAR == 0 { u64::from(self.sizes[number as usize]) } else { SIZE.0 };
        ObjectMeta {
            key: key_of(number),
            size,
            etag: Some(etag(number)),
            age: Some(Duration::from_secs(u64::from(number & !NAR))),
        }
    }
}

fn etag(number: u32) -> String {
    format!("\"{number}\"")
}

/// The path with this number.
pub(crate) fn path(number: u32) -> StorePath {
    let hash = Sha256::digest(number.to_le_bytes());
    let digest = std::array::from_fn(|place| hash[place]);
    StorePath::from_parts(digest, &format!("large-package-{number}-1.23")).unwrap()
}

/// The numbers of the paths that a path refers to.
pub(crate) fn references(number: u32) -> impl Iterator<Item = u32> {
    let chosen =
        (1..=REFERENCES).map(move |which| number.wrapping_mul(which.wrapping_mul(2_654_435_761)) >> 3);
    let mut chosen: Vec<_> = chosen.filter(|_| number > 0).map(|chosen| chosen % number.max(1)).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen.into_iter()
}

fn nar_hash(number: u32) -> [u8; 32] {
    Sha256::digest([number.to_le_bytes(), *b"nar."].concat()).into()
}

fn nar_key(number: u32) -> String {
    object_keys::nar(&nar_hash(number), "0123456789abcdfg", Compression::Zstd)
}

fn key_of(number: u32) -> String {
    match number & NAR {
        0 => object_keys::narinfo(&path(number)),
        _ => nar_key(number & !NAR),
    }
}

fn narinfo(number: u32, keys: &[SecretKey]) -> Vec<u8> {
    let info = PathInfo {
        path: path(number).into(),
        deriver: Some(StorePath::from_parts([number as u8; 20], &format!("large-{number}.drv")).unwrap()),
        nar_hash: nar_hash(number),
        nar_size: SIZE.1,
        references: references(number).map(path).collect(),
        registration_time: 0,
        ultimate: true,
        signatures: Box::default(),
        ca: None,
    };
    let nar = NarObject {
        key: nar_key(number),
        compression: Compression::Zstd,
        file_hash: Some([7; 32]),
        file_size: Some(SIZE.0),
    };
    compose(&StoreDir::default(), &info, &nar, keys).unwrap()
}

#[async_trait]
impl Bucket for LargeBucket {
    fn address(&self) -> String {
        "large:".into()
    }

    async fn get(&self, key: &str) -> Result<Option<Object>> {
        match self.number(key) {
            Some(number) => Ok(Some(Object { body: self.body(number), etag: Some(etag(number)) })),
            None => self.written.get(key).await,
        }
    }

    async fn get_part(&self, key: &str, from: u64, length: u64) -> Result<Option<Bytes>> {
        self.written.get_part(key, from, length).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        match self.number(key) {
            Some(number) => Ok(Some(self.meta(number))),
            None => self.written.head(key).await,
        }
    }

    async fn put(&self, key: &str, body: Body, kind: ContentType, condition: Condition) -> Result<Put> {
        self.written.put(key, body, kind, condition).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.written.delete(key).await
    }

    fn fenced(self: Arc<Self>, _: Arc<dyn Fence>) -> Arc<dyn Bucket> {
        self
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage> {
        if !prefix.is_empty() {
            return self.written.list(prefix, after, depth).await;
        }
        let after = after.map_or("", |Cursor(Position::Key(key) | Position::Token(key))| key);
        let start = self.keys.partition_point(|number| key_of(*number).as_str() <= after);
        let end = self.keys.len().min(start + PAGE);
        let objects: Vec<_> = self.keys[start..end].iter().map(|number| self.meta(*number)).collect();
        let last = objects.last().filter(|_| end < self.keys.len());
        let next = last.map(|object| Cursor::after(object.key.clone()));
        Ok(ListPage { objects, next, ..ListPage::default() })
    }

    async fn start_multipart(&self, key: &str, kind: ContentType) -> Result<Box<dyn Multipart>> {
        self.written.start_multipart(key, kind).await
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.written.unfinished(prefix).await
    }

    async fn exists(&self) -> Result<bool> {
        Ok(true)
    }

    async fn create(&self) -> Result<()> {
        Ok(())
    }

    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        self.written.allow_anonymous_read().await
    }

    fn public_url(&self) -> String {
        "large:".into()
    }
}
