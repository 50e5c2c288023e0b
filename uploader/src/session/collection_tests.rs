//! Tests of a writer's session beside a collection, whose objects are planted.

use std::sync::Arc;

use super::*;
use crate::base::clock::Moment;
use crate::base::error::Retry;
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{Bucket, Condition, ContentType, Depth};
use crate::format::collection::{List, Part, piece};
use crate::format::marker::{Format, Lease, Stage};
use crate::format::object_keys;

const A: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186-a";
const B: &str = "1c5b8vw40dy178xlpddw65q9gf1h2186-b";

async fn put(bucket: &dyn Bucket, key: &str, body: impl Into<Vec<u8>>) {
    let body: Vec<u8> = body.into();
    bucket.put(key, body.into(), ContentType::Text, Condition::None).await.unwrap();
}

async fn session() -> (Arc<dyn Bucket>, Session) {
    let bucket: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
    put(&*bucket, object_keys::FORMAT, Format::current(true).to_json()).await;
    put(&*bucket, object_keys::CACHE_INFO, "StoreDir: /nix/store\n").await;
    let session = Session::open(bucket.clone(), "/nix/store", &[], &[]).await.unwrap();
    (bucket, session)
}

fn digest(base: &str) -> HashPart {
    *nix_derivation::StorePath::from_basename(base.as_bytes()).unwrap().digest()
}

fn narinfo(path: &str, references: &str) -> Vec<u8> {
    format!("StorePath: /nix/store/{path}\nURL: nar/x.nar.zst\nReferences: {references}\n").into_bytes()
}

/// Begins a collection that condemns [`A`] and a NAR. Returns its id.
async fn condemn(bucket: &dyn Bucket) -> String {
    let id = object_keys::new_writer();
    put_list(bucket, &Part::Condemned.key(&id)).await;
    id
}

async fn put_list(bucket: &dyn Bucket, key: &str) {
    let list = List { levels: vec![vec![digest(A)]], objects: vec!["nar/y.nar.zst".into()] };
    let (header, pieces) = list.encode(false);
    put(bucket, &piece(key, 0), pieces[0].clone()).await;
    put(bucket, key, header).await;
}

async fn acknowledged(bucket: &dyn Bucket, session: &Session, id: &str) -> Option<Stage> {
    let lease = bucket.get(&object_keys::lease(session.id())).await.unwrap().unwrap();
    serde_json::from_slice::<Lease>(&lease.body).unwrap().acknowledged.get(id).copied()
}

#[tokio::test]
async fn a_path_that_is_needed_is_rescued_and_stays_free() {
    let (bucket, session) = session().await;
    let id = condemn(&*bucket).await;
    session.look_again().await.unwrap();
    assert_eq!(acknowledged(&*bucket, &session, &id).await, Some(Stage::Condemned));
    session.clear([digest(A)].iter()).await.unwrap();
    let rescues = format!("larder/collections/{id}/rescues/");
    let rescues = bucket.list(&rescues, None, Depth::Flat).await.unwrap();
    assert_eq!(rescues.objects.len(), 1);
    put(&*bucket, &Part::Closing.key(&id), "{}").await;
    session.look_again().await.unwrap();
    assert_eq!(acknowledged(&*bucket, &session, &id).await, Some(Stage::Closing));
    assert!(!session.must_wait([&digest(A)]) && !session.nar_counts("nar/y.nar.zst"));
    session.put_narinfo(narinfo(B, A), Condition::None, Moment::now()).await.unwrap();
}

#[tokio::test]
async fn what_is_being_removed_waits_and_is_asked_about_again_afterwards() {
    let (bucket, session) = session().await;
    let id = condemn(&*bucket).await;
    put(&*bucket, &Part::Closing.key(&id), "{}").await;
    session.look_again().await.unwrap();
    assert!(session.must_wait([&digest(A)]));
    let before = Moment::now();
    for narinfo in [narinfo(A, ""), narinfo(B, A)] {
        let error = session.put_narinfo(narinfo, Condition::None, before).await.unwrap_err();
        assert!(error.retry() == Retry::Transient && error.to_string().contains("is removing"), "{error}");
    }
    assert!(session.put_record("larder/needs/x", Vec::new(), vec![digest(A)], before).await.is_err());
    assert!(bucket.get(&object_keys::narinfo_of(&digest(B))).await.unwrap().is_none());
    put_list(&*bucket, &Part::Final.key(&id)).await;
    put(&*bucket, &Part::Done.key(&id), "{}").await;
    session.look_again().await.unwrap();
    assert!(session.forgot(&digest(A), before) && !session.forgot(&digest(B), before));
    let error = session.put_narinfo(narinfo(B, A), Condition::None, before).await.unwrap_err();
    assert!(error.to_string().contains("may have removed"), "{error}");
    while before.elapsed() < std::time::Duration::from_millis(1) {
        std::thread::yield_now();
    }
    session.put_narinfo(narinfo(B, A), Condition::None, Moment::now()).await.unwrap();
}

#[tokio::test]
async fn a_condemned_nar_is_not_named_and_a_purged_path_is_not_published() {
    let (bucket, session) = session().await;
    condemn(&*bucket).await;
    let tombstone = format!("larder/collections/removed/{}.json", &B[..32]);
    put(&*bucket, &tombstone, "{}").await;
    session.look_again().await.unwrap();
    let condemned = String::from_utf8(narinfo(A, "")).unwrap().replace("nar/x", "nar/y");
    let error =
        session.put_narinfo(condemned.into_bytes(), Condition::None, Moment::now()).await.unwrap_err();
    assert!(error.to_string().contains("its NAR"), "{error}");
    let (purged, other) = (digest(B), digest(A));
    assert!(session.check_permitted(&other, []).is_ok());
    assert!(
        session.check_permitted(&purged, []).is_err() && session.check_permitted(&other, [&purged]).is_err()
    );
    let error = session.put_narinfo(narinfo(B, ""), Condition::None, Moment::now()).await.unwrap_err();
    assert!(error.retry() == Retry::Permanent && error.to_string().contains("for good"), "{error}");
}

#[tokio::test]
async fn a_realisation_waits_for_the_collection_of_its_path_and_of_its_own_key() {
    const KEY: &str = "realisations/sha256:00!out.doi";
    let (bucket, session) = session().await;
    let id = condemn(&*bucket).await;
    let put_one = async |key: &str, path: &str, since| {
        session.put_realisation(key, b"{}".to_vec(), &digest(path), Condition::None, since).await
    };
    let before = Moment::now();
    session.look_again().await.unwrap();
    // The collection condemns this key, which stands for that of a realisation here.
    let error = put_one("nar/y.nar.zst", B, before).await.unwrap_err();
    assert!(error.retry() == Retry::Transient && error.to_string().contains("what stood there"), "{error}");
    put_one(KEY, A, before).await.unwrap();
    put(&*bucket, &Part::Closing.key(&id), "{}").await;
    session.look_again().await.unwrap();
    assert!(put_one(KEY, A, before).await.is_err() && put_one(KEY, B, before).await.is_ok());
    put_list(&*bucket, &Part::Final.key(&id)).await;
    put(&*bucket, &Part::Done.key(&id), "{}").await;
    put(&*bucket, &format!("larder/collections/removed/{}.json", &B[..32]), "{}").await;
    session.look_again().await.unwrap();
    assert!(put_one(KEY, A, before).await.is_err(), "the path may be gone");
    assert!(put_one("nar/y.nar.zst", B, before).await.is_err());
    assert!(put_one(KEY, B, Moment::now()).await.unwrap_err().to_string().contains("for good"));
}
