use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::base::error::Result;
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{
    self, AnonymousRead, Body, Bucket, Condition, ContentType, Cursor, Depth, Fence, ListPage, Multipart,
    ObjectMeta, Put,
};
use crate::upkeep::house::{self, House, id, names};

#[tokio::test]
async fn the_catalog_has_what_the_bucket_holds() {
    let house = House::new().await;
    let nar = house.publish("a", &[]).await;
    house.publish("b", &["a", "b", "upstream"]).await;
    house.publish("c", &["b"]).await;
    house.put("log/x.drv", "log").await;
    house.bucket.make_older(&house::narinfo("a"), Duration::from_secs(7200));
    let catalog = house.catalog().await;
    let (a, b, c) = (id(&catalog, "a"), id(&catalog, "b"), id(&catalog, "c"));
    assert_eq!(catalog.paths(), 3);
    assert_eq!(catalog.path(a), Some(house::path("a")));
    assert_eq!(catalog.nar(a).map(|nar| catalog.nar_object(nar).0.to_owned()), Some(nar));
    assert_eq!(catalog.nar_size(a), house::nar("a").len() as u64);
    assert!(catalog.age(a).unwrap() >= Duration::from_secs(7200));
    assert_eq!(catalog.signers(a), ["house-1".to_owned()]);
    assert_eq!(catalog.deriver(a), Some(&*house::path("a.drv").to_basename()));
    assert!(catalog.ids().all(|id| catalog.fault(id).is_none()));
    assert_eq!(catalog.present_references(b).collect::<Vec<_>>(), [a]);
    let absent: Vec<_> = catalog.absent_ids().filter_map(|id| catalog.absent_path(id)).collect();
    assert_eq!(absent, [house::path("upstream")]);
    assert_eq!(names(&catalog, catalog.closure([c]).iter()), ["a", "b", "c"]);
    assert_eq!(catalog.referrers().of_path(a), [b]);
    assert_eq!(
        catalog.others().iter().map(|(key, _)| key).collect::<Vec<_>>(),
        ["larder/format.json", "log/x.drv", "nix-cache-info"]
    );
}

#[tokio::test]
async fn faults_of_narinfos_and_of_their_nars_are_known() {
    let house = House::new().await;
    let nar = house.publish("no-nar", &[]).await;
    house.delete(&nar).await;
    let nar = house.publish("short-nar", &[]).await;
    house.put(&nar, "x").await;
    house.publish_signed("unsigned", &[], &[]).await;
    house.put(&house::narinfo("rubbish"), "x").await;
    house.publish("sound", &[]).await;
    let catalog = house.catalog().await;
    let fault = |name: &str| catalog.fault(id(&catalog, name)).map(PathFault::text).unwrap_or_default();
    assert!(fault("no-nar").contains("is not in the bucket"), "{}", fault("no-nar"));
    assert!(fault("short-nar").contains("has 1 bytes instead of"), "{}", fault("short-nar"));
    assert_eq!(fault("unsigned"), "no trusted key signed it");
    assert!(
        fault("rubbish").contains("malformed") || fault("rubbish").contains("line feed"),
        "{}",
        fault("rubbish")
    );
    assert_eq!((fault("sound"), catalog.paths()), (String::new(), 5));
}

/// Records in memory, which count what they are asked for.
#[derive(Default)]
struct Memory {
    records: std::collections::HashMap<[u8; 20], (Object, Record)>,
    known: usize,
}

impl Records for Memory {
    fn get(&mut self, digest: &[u8; 20], object: &Object) -> Option<Record> {
        let (kept, record) = self.records.get(digest)?;
        let record = kept.is_same(object).then(|| record.clone());
        self.known += usize::from(record.is_some());
        record
    }

    fn put(&mut self, digest: &[u8; 20], object: &Object, record: &Record) {
        self.records.insert(*digest, (*object, record.clone()));
    }
}

#[tokio::test]
async fn a_narinfo_that_was_read_is_read_again_only_after_a_change() {
    let house = House::new().await;
    for name in ["a", "b", "c"] {
        house.publish(name, &["x"]).await;
    }
    let mut records = Memory::default();
    let first = take(&house.bucket, &house.options(), &mut records, &|_, _| {}).await.unwrap();
    assert_eq!((first.paths(), records.known), (3, 0));
    house.publish("d", &["a"]).await;
    house.publish_signed("b", &["a"], &[]).await;
    let again = take(&house.bucket, &house.options(), &mut records, &|_, _| {}).await.unwrap();
    assert_eq!(records.known, 2);
    assert_eq!(again.present_references(id(&again, "b")).collect::<Vec<_>>(), [id(&again, "a")]);
    assert!(again.fault(id(&again, "b")).is_some() && again.fault(id(&again, "a")).is_none());
}

#[tokio::test]
async fn the_closure_of_a_path_is_read_without_a_listing() {
    let house = House::new().await;
    house.publish("a", &[]).await;
    house.publish("b", &["a", "upstream"]).await;
    house.publish("other", &[]).await;
    let nar = house.publish("c", &["b"]).await;
    house.delete(&nar).await;
    let roots = [*house::path("c").digest(), *house::path("nowhere").digest()];
    let catalog = take_closure(&house.bucket, &house.options(), roots).await.unwrap();
    assert_eq!(names(&catalog, catalog.ids()), ["a", "b", "c"]);
    let faulty = catalog.ids().filter(|id| catalog.fault(*id).is_some());
    assert_eq!(names(&catalog, faulty), ["c"]);
    assert_eq!(catalog.absent_ids().count(), 1);
}

/// A bucket whose listing was made before some objects were written.
#[derive(Debug)]
struct Late {
    bucket: MemoryBucket,
    late: HashSet<String>,
}

#[async_trait]
impl Bucket for Late {
    fn fenced(self: Arc<Self>, _: Arc<dyn Fence>) -> Arc<dyn Bucket> {
        self
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage> {
        let mut page = self.bucket.list(prefix, after, depth).await?;
        page.objects.retain(|object| !self.late.contains(&object.key));
        Ok(page)
    }
    async fn get(&self, key: &str) -> Result<Option<bucket::Object>> {
        self.bucket.get(key).await
    }
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        self.bucket.head(key).await
    }
    fn address(&self) -> String {
        self.bucket.address()
    }
    async fn get_part(&self, key: &str, from: u64, length: u64) -> Result<Option<Bytes>> {
        self.bucket.get_part(key, from, length).await
    }
    async fn put(&self, key: &str, body: Body, kind: ContentType, condition: Condition) -> Result<Put> {
        self.bucket.put(key, body, kind, condition).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.bucket.delete(key).await
    }
    async fn start_multipart(&self, key: &str, kind: ContentType) -> Result<Box<dyn Multipart>> {
        self.bucket.start_multipart(key, kind).await
    }
    async fn exists(&self) -> Result<bool> {
        self.bucket.exists().await
    }
    async fn create(&self) -> Result<()> {
        self.bucket.create().await
    }
    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        self.bucket.allow_anonymous_read().await
    }
    fn public_url(&self) -> String {
        self.bucket.public_url()
    }
}

#[tokio::test]
async fn what_was_written_while_the_bucket_was_listed_is_not_missing() {
    let house = House::new().await;
    let mut late = HashSet::new();
    // More than are asked for at once, and paths whose NARs are gone for days.
    for number in 0..180 {
        late.insert(house.publish(&format!("late-{number}"), &["late-reference"]).await);
    }
    house.publish("late-reference", &[]).await;
    late.insert(house::narinfo("late-reference"));
    for number in 0..120 {
        let name = format!("broken-{number}");
        let nar = house.publish(&name, &[]).await;
        house.delete(&nar).await;
        house.bucket.make_older(&house::narinfo(&name), Duration::from_secs(3 * 24 * 3600));
    }
    let bucket = Late { bucket: house.bucket.clone(), late };
    let catalog = take(&bucket, &house.options(), &mut NoRecords, &|_, _| {}).await.unwrap();
    let faulty = catalog.ids().filter(|id| catalog.fault(*id).is_some());
    let faulty = names(&catalog, faulty);
    assert!(faulty.iter().all(|name| name.starts_with("broken-")), "{faulty:?}");
    assert_eq!((faulty.len(), catalog.absent_ids().count()), (120, 0));
}
