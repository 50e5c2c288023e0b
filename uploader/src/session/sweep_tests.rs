//! Tests of the removal of what dead writers left.

use std::collections::BTreeSet;

use super::*;
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{Condition, ContentType, Options, Unfinished, open};
use crate::format::object_keys::{Compression, lease, new_nar, new_writer, reservation};
use crate::http::scripted::{Scripted, reply};

const HOUR: Duration = Duration::from_secs(3600);

async fn put(bucket: &dyn Bucket, key: &str, body: String) {
    bucket.put(key, body.into(), ContentType::Json, Condition::None).await.unwrap();
}

/// A writer with a lease of this age, a reservation, and an unfinished upload. No age means no lease.
async fn writer(bucket: &MemoryBucket, number: u8, age: Option<Duration>) -> (String, Unfinished) {
    let id = new_writer();
    if let Some(age) = age {
        // The clock of the writer is wrong.
        put(bucket, &lease(&id), r#"{"since": 1, "renewed": 1, "version": "0"}"#.into()).await;
        bucket.make_older(&lease(&id), age);
    }
    put(bucket, &reservation(&[number; 32]), Reservation { writer: id.clone() }.to_json()).await;
    let key = new_nar(&[number; 32], Compression::Zstd, &id);
    bucket.start_multipart(&key, ContentType::Nar).await.unwrap();
    let uploads = bucket.unfinished(&key).await.unwrap();
    (id, uploads[0].clone())
}

/// Whether the lease, the reservation and the upload of a writer exist.
async fn left(bucket: &MemoryBucket, number: u8, (id, upload): &(String, Unfinished)) -> [bool; 3] {
    [
        bucket.head(&lease(id)).await.unwrap().is_some(),
        bucket.head(&reservation(&[number; 32])).await.unwrap().is_some(),
        bucket.unfinished(&upload.key).await.unwrap().contains(upload),
    ]
}

#[tokio::test]
async fn what_a_dead_writer_left_is_removed_and_what_lives_stays() {
    let bucket = MemoryBucket::default();
    let living = [writer(&bucket, 1, Some(HOUR)).await, writer(&bucket, 2, Some(23 * HOUR)).await];
    let dead = [writer(&bucket, 3, Some(25 * HOUR)).await, writer(&bucket, 4, None).await];
    let former = writer(&bucket, 5, Some(HOUR)).await;
    let own = writer(&bucket, 6, Some(25 * HOUR)).await;
    sweep(&bucket, &own.0, Some(&former.0), false).await.unwrap();
    assert_eq!(left(&bucket, 1, &living[0]).await, [true; 3]);
    assert_eq!(left(&bucket, 2, &living[1]).await, [true; 3]);
    assert_eq!(left(&bucket, 3, &dead[0]).await, [false; 3]);
    assert_eq!(left(&bucket, 4, &dead[1]).await, [false; 3]);
    assert_eq!(left(&bucket, 5, &former).await, [false; 3]);
    assert_eq!(left(&bucket, 6, &own).await, [true; 3]);
}

#[tokio::test]
async fn leases_of_dead_writers_are_removed_where_nothing_else_is_left() {
    let bucket = MemoryBucket::default();
    let [dead, living] = [new_writer(), new_writer()];
    for id in [&dead, &living] {
        put(&bucket, &lease(id), "not a lease of this version".into()).await;
    }
    bucket.make_older(&lease(&dead), 25 * HOUR);
    for key in ["larder/writers/probe-00000001", "larder/writers/other"] {
        put(&bucket, key, String::new()).await;
        bucket.make_older(key, 25 * HOUR);
    }
    sweep(&bucket, &new_writer(), None, false).await.unwrap();
    let kept = bucket.list(object_keys::WRITERS, None, Depth::Flat).await.unwrap().objects;
    let kept: BTreeSet<_> = kept.into_iter().map(|object| object.key).collect();
    assert_eq!(kept, [lease(&living), "larder/writers/other".into()].into());
}

/// The answer to a request for a page of leases, of which the next page has another token. The leases are two days old.
fn page_of_leases(number: usize, date: &str) -> String {
    let xml = format!(
        "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{number}</NextContinuationToken>\
         <Contents><Key>{}</Key><LastModified>1994-11-04T08:49:37Z</LastModified></Contents></ListBucketResult>",
        lease(&new_writer())
    );
    reply("200 OK", date, &xml)
}

#[tokio::test]
async fn leases_without_end_end_the_removal_and_prove_no_writer_dead() {
    let nar = new_nar(&[7; 32], Compression::Zstd, &new_writer());
    let uploads = format!(
        "<ListMultipartUploadsResult><Upload><Key>{nar}</Key><UploadId>u</UploadId></Upload></ListMultipartUploadsResult>"
    );
    for (date, removed) in [("date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", PAGES), ("", 0)] {
        let mut answers =
            vec![reply("200 OK", "", "<ListBucketResult></ListBucketResult>"), reply("200 OK", "", &uploads)];
        answers.extend((0..PAGES).map(|number| page_of_leases(number, date)));
        answers.push(reply("204 No Content", "", ""));
        let server = Scripted::start(answers).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, "id\nsecret\n").unwrap();
        let options = Options { credentials_file: Some(file), ..Options::default() };
        let address = format!("s3://cache?endpoint=127.0.0.1:{}&scheme=http", server.port);
        let bucket = open(&address, &options).await.unwrap();
        sweep(&*bucket, &new_writer(), None, false).await.unwrap();
        let seen = server.seen();
        assert_eq!(seen.iter().filter(|request| request.contains("larder%2Fwriters")).count(), PAGES);
        let deleted: Vec<_> = seen.iter().filter(|request| request.starts_with("DELETE")).collect();
        assert_eq!(deleted.len(), removed, "{deleted:?}");
        assert!(deleted.iter().all(|request| request.contains("/larder/writers/")), "{deleted:?}");
    }
}
