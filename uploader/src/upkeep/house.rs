//! A bucket in memory with real narinfos and real NARs, for the unit tests of the upkeep.

use std::sync::Arc;

use nix_derivation::StorePath;
use nix_derivation::store_path::StoreDir;
use sha2::{Digest, Sha256};

use super::inventory::{Catalog, NoRecords, Options, PathId, take};
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::narinfo::{NarObject, compose};
use crate::format::object_keys::{self, Compression};
use crate::format::path_info::PathInfo;
use crate::format::signature::SecretKey;

/// A bucket with a key that has signed its narinfos.
pub(crate) struct House {
    pub(crate) bucket: MemoryBucket,
    pub(crate) key: SecretKey,
}

impl House {
    /// An empty bucket with its marker and `nix-cache-info`.
    pub(crate) async fn new() -> Self {
        let house = Self { bucket: MemoryBucket::default(), key: SecretKey::generate("house-1").unwrap() };
        house.put(object_keys::CACHE_INFO, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n").await;
        house
            .put(object_keys::FORMAT, "{\"version\":1,\"written_by\":\"x\",\"conditional_writes\":true}")
            .await;
        house
    }

    /// The bucket, as a session takes it.
    pub(crate) fn shared(&self) -> Arc<dyn Bucket> {
        Arc::new(self.bucket.clone())
    }

    pub(crate) async fn put(&self, key: &str, body: impl Into<Vec<u8>>) {
        let body: Vec<u8> = body.into();
        self.bucket.put(key, body.into(), ContentType::Text, Condition::None).await.unwrap();
    }

    /// The bytes of an object.
    pub(crate) async fn bucket_bytes(&self, key: &str) -> Vec<u8> {
        self.bucket.get(key).await.unwrap().unwrap().body.to_vec()
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.bucket.delete(key).await.unwrap();
    }

    /// Publishes the path `name` with these references, by their names. Returns the key of its NAR.
    pub(crate) async fn publish(&self, name: &str, references: &[&str]) -> String {
        self.publish_signed(name, references, std::slice::from_ref(&self.key)).await
    }

    /// The same, signed by these keys.
    pub(crate) async fn publish_signed(&self, name: &str, references: &[&str], keys: &[SecretKey]) -> String {
        let (info, bytes) = (info(name, references), nar(name));
        let compressed = zstd::encode_all(&*bytes, 1).unwrap();
        let nar = NarObject {
            key: object_keys::new_nar(&info.nar_hash, Compression::Zstd, "0123456789"),
            compression: Compression::Zstd,
            file_hash: Some(Sha256::digest(&compressed).into()),
            file_size: Some(compressed.len() as u64),
        };
        self.put(&nar.key, compressed).await;
        let narinfo = compose(&StoreDir::default(), &info, &nar, keys).unwrap();
        self.put(&object_keys::narinfo(&info.path), narinfo).await;
        nar.key
    }

    /// The inventory of the bucket, with all narinfos read.
    pub(crate) async fn catalog(&self) -> Catalog {
        take(&self.bucket, &self.options(), &mut NoRecords, &|_, _| {}).await.unwrap()
    }

    /// The options of an inventory that trusts the key of the house.
    pub(crate) fn options(&self) -> Options {
        Options { store_dir: StoreDir::default(), trusted: vec![self.key.public()] }
    }
}

/// The path with this name.
pub(crate) fn path(name: &str) -> StorePath {
    let hash = Sha256::digest(name);
    StorePath::from_parts(std::array::from_fn(|place| hash[place]), name).unwrap()
}

/// The number of the path with this name.
pub(crate) fn id(catalog: &Catalog, name: &str) -> PathId {
    catalog.find(path(name).digest()).unwrap()
}

/// The names of paths.
pub(crate) fn names(catalog: &Catalog, ids: impl IntoIterator<Item = PathId>) -> Vec<String> {
    let mut names: Vec<_> = ids.into_iter().map(|id| catalog.name(id).unwrap_or("?").to_owned()).collect();
    names.sort();
    names
}

/// The key of the narinfo of the path with this name.
pub(crate) fn narinfo(name: &str) -> String {
    object_keys::narinfo(&path(name))
}

/// The NAR of the path with this name.
pub(crate) fn nar(name: &str) -> Vec<u8> {
    let mut nar = Vec::new();
    for text in ["nix-archive-1", "(", "type", "regular", "contents", name, ")"] {
        nar.extend((text.len() as u64).to_le_bytes());
        nar.extend(text.as_bytes());
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

/// The path info of the path with this name and these references.
pub(crate) fn info(name: &str, references: &[&str]) -> PathInfo {
    let nar = nar(name);
    PathInfo {
        path: path(name).into(),
        deriver: Some(path(&format!("{name}.drv"))),
        nar_hash: Sha256::digest(&nar).into(),
        nar_size: nar.len() as u64,
        references: references.iter().map(|name| path(name)).collect(),
        registration_time: 0,
        ultimate: true,
        signatures: Box::default(),
        ca: None,
    }
}
