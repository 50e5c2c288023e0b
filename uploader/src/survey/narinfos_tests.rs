use nix_derivation::store_path::StoreDir;

use super::*;
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{Condition, ContentType};
use crate::format::narinfo::{NarObject, compose};
use crate::format::object_keys::Compression;
use crate::format::signature::SecretKey;
use crate::format::standing::Judge;
use crate::survey::Verifier;

/// The number of paths: so many that a sample of 16 seldom contains a certain one.
const PATHS: usize = 300;
const NAR_SIZE: u64 = 120;

fn info(number: usize) -> Arc<PathInfo> {
    let mut digest = [7; 20];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    let mut nar_hash = [9; 32];
    nar_hash[..8].copy_from_slice(&number.to_le_bytes());
    Arc::new(PathInfo {
        path: StorePath::from_parts(digest, "path").unwrap().into(),
        deriver: None,
        nar_hash,
        nar_size: NAR_SIZE,
        references: [].into_iter().collect(),
        registration_time: 0,
        ultimate: true,
        signatures: Box::default(),
        ca: None,
    })
}

async fn put(bucket: &Arc<dyn Bucket>, key: &str, bytes: Vec<u8>) {
    bucket.put(key, bytes.into(), ContentType::NarInfo, Condition::None).await.unwrap();
}

/// Puts the NAR and the narinfo of a path. Returns the size of the narinfo.
async fn publish(bucket: &Arc<dyn Bucket>, info: &PathInfo, keys: &[SecretKey]) -> usize {
    let nar = NarObject {
        key: object_keys::new_nar(&info.nar_hash, Compression::Zstd, "0123456789"),
        compression: Compression::Zstd,
        file_hash: Some([4; 32]),
        file_size: Some(60),
    };
    put(bucket, &nar.key, vec![0; 60]).await;
    let narinfo = compose(&StoreDir::default(), info, &nar, keys).unwrap();
    let size = narinfo.len();
    put(bucket, &object_keys::narinfo(&info.path), narinfo).await;
    size
}

#[tokio::test]
async fn the_narinfos_of_doubted_paths_are_read_although_their_sizes_are_the_expected_ones() {
    let bucket: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
    let (dir, keys) = (StoreDir::default(), [SecretKey::generate("test-1").unwrap()]);
    let trusted = [keys[0].public()];
    let infos: Vec<_> = (0..PATHS).map(info).collect();
    for info in &infos {
        publish(&bucket, info, &keys).await;
    }
    // With a sample alone, all eight would be found in one of 10^10 runs.
    for doubted in infos.iter().step_by(PATHS / 8) {
        let size = publish(&bucket, doubted, &keys).await;
        put(&bucket, &object_keys::narinfo(&doubted.path), vec![b'x'; size]).await;
        let survey = Survey {
            examiner: Examiner {
                bucket: &*bucket,
                judge: Judge { store_dir: &dir, keys: &keys, trusted: &trusted },
                adopt: &[],
                verifier: &Verifier::new(false),
            },
            read_all: false,
            doubted: &[(*doubted.path).clone()].into(),
        };
        let found = survey.of(&infos, BucketScan::begin(&bucket, PATHS)).await.unwrap();
        let presence = &found.presence[&doubted.path];
        assert!(matches!(presence, Presence::Replaceable), "{presence:?}");
        let others = found.presence.iter().filter(|(path, _)| **path != doubted.path);
        assert!(others.clone().all(|(_, presence)| presence.is_available()));
        assert_eq!(others.count(), PATHS - 1);
        publish(&bucket, doubted, &keys).await;
    }
}
