//! Reads narinfos, many at the same time.

use std::sync::Arc;

use futures::{StreamExt, stream};
use nix_derivation::store_path::StoreDir;
use nix_narinfo::TrustedPublicKey;

use super::objects::{Object, Tag};
use super::records::Record;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{self, Bucket};
use crate::format::object_keys;
use crate::format::summary::Summary;
use crate::format::verifier::Verifier;

/// The number of concurrent requests for narinfos.
const CONCURRENT: usize = 48;
/// The number of narinfos that a thread judges at a time.
const PORTION: usize = 64;

/// The trust of clients, which decides what they can use.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) store_dir: StoreDir,
    pub(super) keys: Verifier,
}

impl Trust {
    pub(super) fn new(store_dir: StoreDir, keys: Vec<TrustedPublicKey>) -> Arc<Self> {
        Arc::new(Self { store_dir, keys: Verifier::new(keys) })
    }
}

/// A narinfo that was read, by its hash part; `None` if it does not exist.
pub(super) type Read = ([u8; 20], Option<(Object, Record)>);

/// Reads narinfos, by the hash parts of their paths. Calls `take` with each portion.
///
/// # Errors
/// When the bucket fails.
pub(super) async fn read_all(
    bucket: &dyn Bucket,
    trust: &Arc<Trust>,
    wanted: Vec<[u8; 20]>,
    mut take: impl FnMut(Vec<Read>),
) -> Result<()> {
    let requests = wanted.into_iter().map(|digest| async move {
        Ok::<_, Error>((digest, bucket.get(&object_keys::narinfo_of(&digest)).await?))
    });
    let answers = stream::iter(requests).buffer_unordered(CONCURRENT);
    // Judgement takes processor time, so that threads of their own do it while the next narinfos arrive.
    let mut judged = answers
        .chunks(PORTION)
        .map(|answers| {
            let trust = trust.clone();
            tokio::task::spawn_blocking(move || {
                answers.into_iter().map(|answer| answer.map(|answer| judge(&trust, answer))).collect()
            })
        })
        .buffered(2);
    while let Some(portion) = judged.next().await {
        let portion: Result<Vec<Read>> = portion.map_err(|error| {
            Error::permanent(Area::General, "a thread that judges narinfos died").because(error)
        })?;
        take(portion?);
    }
    Ok(())
}

fn judge(trust: &Trust, (digest, answer): ([u8; 20], Option<bucket::Object>)) -> Read {
    let read = answer.map(|object| {
        let record = Record::of(Summary::read(&trust.store_dir, &trust.keys, &digest, &object.body));
        (Object::read(object.body.len() as u64, object.etag.as_deref().map(Tag::of)), record)
    });
    (digest, read)
}
