use std::io::Read;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::*;
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{Condition, ContentType};
use crate::format::object_keys::{self, Compression};
use crate::store::StorePath;

fn info(nar: &[u8]) -> PathInfo {
    PathInfo {
        path: StorePath::from_parts([7; 20], "path").unwrap().into(),
        deriver: None,
        nar_hash: Sha256::digest(nar).into(),
        nar_size: nar.len() as u64,
        references: std::iter::empty().collect(),
        registration_time: 0,
        ultimate: true,
        signatures: Box::default(),
        ca: None,
    }
}

fn compressed(compression: Compression, nar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => nar.to_vec(),
        // Two frames, as larder writes them when the level changes.
        Compression::Zstd => {
            let (one, other) = nar.split_at(nar.len() / 2);
            [zstd::encode_all(one, 1).unwrap(), zstd::encode_all(other, 3).unwrap()].concat()
        }
        Compression::Xz => {
            let mut file = Vec::new();
            liblzma::read::XzEncoder::new(nar, 1).read_to_end(&mut file).unwrap();
            file
        }
    }
}

/// Verifies an object with these bytes and this listed size against the NAR.
async fn verified(compression: Compression, bytes: &[u8], listed: usize, nar: &[u8]) -> Option<NarObject> {
    let bucket: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
    let info = info(nar);
    let key = object_keys::new_nar(&info.nar_hash, compression, "0123456789");
    bucket.put(&key, bytes.to_vec().into(), ContentType::Nar, Condition::None).await.unwrap();
    let object = NarObject { key, compression, file_hash: None, file_size: Some(listed as u64) };
    verify(&*bucket, &info, object).await.unwrap()
}

/// A NAR of several parts.
fn nar() -> Vec<u8> {
    (0..PART as u32 / 2).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// The part of an object that is downloaded by one request, in bytes.
const PART: u64 = 4 << 20;

#[tokio::test]
async fn the_nar_itself_is_found_sound_and_its_file_hash_is_computed() {
    let nar = nar();
    for compression in Compression::ALL {
        let file = compressed(compression, &nar);
        let object = verified(compression, &file, file.len(), &nar).await.unwrap();
        assert_eq!(object.file_hash, Some(Sha256::digest(&file).into()), "{compression:?}");
        assert_eq!(object.file_size, Some(file.len() as u64));
    }
}

#[tokio::test]
async fn every_other_object_is_found_out() {
    let nar = nar();
    for compression in Compression::ALL {
        let file = compressed(compression, &nar);
        let mut changed = nar.clone();
        changed[1000] ^= 1;
        let changed = compressed(compression, &changed);
        let mut flipped = file.clone();
        flipped[file.len() / 2] ^= 1;
        let longer = compressed(compression, &[&*nar, b"x"].concat());
        let trailing = [&*file, b"rubbish"].concat();
        let other = vec![7; file.len()];
        for (name, bytes) in [
            ("empty", &[][..]),
            ("truncated", &file[..file.len() - 1]),
            ("changed", &changed),
            ("flipped", &flipped),
            ("longer", &longer),
            ("trailing", &trailing),
            ("rubbish", &other),
        ] {
            assert!(
                verified(compression, bytes, bytes.len(), &nar).await.is_none(),
                "{compression:?} {name}"
            );
        }
        // The object is not what the listing showed.
        assert!(verified(compression, &file[..10], file.len(), &nar).await.is_none());
    }
}

#[tokio::test]
async fn a_sound_object_is_read_once_and_a_trusted_bucket_never() {
    let nar = nar();
    let info = info(&nar);
    let object = |key: &str| NarObject {
        key: key.into(),
        compression: Compression::None,
        file_hash: None,
        file_size: Some(nar.len() as u64),
    };
    let bucket = MemoryBucket::default();
    bucket.put("nar/x", nar.clone().into(), ContentType::Nar, Condition::None).await.unwrap();
    let verifier = Verifier::new(false);
    assert!(verifier.check(&bucket, &info, object("nar/x")).await.unwrap().is_some());
    bucket.put("nar/x", Vec::new().into(), ContentType::Nar, Condition::None).await.unwrap();
    assert!(verifier.check(&bucket, &info, object("nar/x")).await.unwrap().is_some());
    assert!(verifier.check(&bucket, &info, object("nar/y")).await.unwrap().is_none());
    assert!(Verifier::new(true).check(&bucket, &info, object("nar/y")).await.unwrap().is_some());
}
