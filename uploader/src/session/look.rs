//! Reads which collections are open, and which paths nobody may publish.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use nix_derivation::nixbase32;

use super::names::{BucketNames, HashPart, InList, Keys, Paths};
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Depth};
use crate::format::collection::{COLLECTIONS, Header, List, Part, TOMBSTONES, piece};
use crate::format::members;
use crate::protocol::gate::{Open, Stage};

/// The number of pieces of a list that are read at the same time.
const CONCURRENT: usize = 4;
/// The most objects of collections that are listed.
const MOST: usize = 1_000_000;

/// What a look has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The open collections.
    pub(super) open: Vec<Open<BucketNames>>,
    /// The paths that nobody may publish.
    pub(super) removed: Paths,
}

/// The lists that earlier looks have read: a list never changes.
#[derive(Debug, Default)]
pub(super) struct Looker {
    lists: HashMap<(String, bool), Open<BucketNames>>,
}

impl Looker {
    /// Reads the open collections and the tombstones.
    ///
    /// # Errors
    /// When the bucket fails, or a list cannot be read: what may be used is then unknown.
    pub(super) async fn look(&mut self, bucket: &dyn Bucket) -> Result<Found> {
        let Listed { collections, removed } = list(bucket).await?;
        self.lists.retain(|(id, _), _| collections.contains_key(id));
        let mut open = Vec::new();
        for (id, parts) in collections {
            let Some(stage) = parts.stage() else { continue };
            let is_final = stage == Stage::Deleting;
            let key = (id.clone(), is_final);
            if !self.lists.contains_key(&key) {
                let short = read_short(bucket, &id, is_final, &parts).await;
                let list = match short {
                    Some(list) => list,
                    None => match read_list(bucket, &id, is_final).await? {
                        Some(list) => opened(&id, &list),
                        // It ended while it was read.
                        None => continue,
                    },
                };
                self.lists.insert(key.clone(), list);
            }
            if let Some(list) = self.lists.get(&key) {
                open.push(Open { stage, ..list.clone() });
            }
        }
        Ok(Found { open, removed })
    }
}

/// A list of an open collection, for the gate. The stage is a placeholder.
fn opened(id: &str, list: &OpenList) -> Open<BucketNames> {
    Open {
        id: id.to_owned(),
        stage: Stage::Condemned,
        paths: InList::Whole(list.list.levels.iter().flatten().copied().collect()),
        nars: InList::Whole(list.list.objects.iter().map(|key| Arc::from(&**key)).collect()),
        rescuable: !list.removal,
    }
}

/// Reads the short form of `condemned` or `final`. `None` if it cannot be had: the list itself tells what is wrong.
async fn read_short(
    bucket: &dyn Bucket,
    id: &str,
    is_final: bool,
    parts: &Parts,
) -> Option<Open<BucketNames>> {
    let list = list_key(id, is_final);
    let short = members::key(&list);
    parts.keys.contains(&short).then_some(())?;
    let (header, short) = tokio::try_join!(bucket.get(&list), bucket.get(&short)).ok()?;
    let header = Header::parse(&header?.body).ok()?;
    let (paths, nars) = members::decode(&header, &short?.body)?;
    Some(Open {
        id: id.to_owned(),
        stage: Stage::Condemned,
        paths: InList::Short(Arc::new(paths), Paths::default()),
        nars: InList::Short(Arc::new(nars), Keys::default()),
        rescuable: !header.removal,
    })
}

fn list_key(id: &str, is_final: bool) -> String {
    if is_final { Part::Final.key(id) } else { Part::Condemned.key(id) }
}

/// The objects of a collection that a listing shows.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    condemned: bool,
    closing: bool,
    last: bool,
    done: bool,
    /// All keys of the collection.
    pub keys: Vec<String>,
}

impl Parts {
    /// The stage of an open collection; `None` if it is not open. If the bucket has lost `condemned`, `final` still counts.
    pub fn stage(&self) -> Option<Stage> {
        if self.done {
            None
        } else if self.last {
            Some(Stage::Deleting)
        } else if !self.condemned {
            None
        } else if self.closing {
            Some(Stage::Closing)
        } else {
            Some(Stage::Condemned)
        }
    }

    /// Whether the collection has ended.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

/// What a listing of all collections shows.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// The collections by their ids.
    pub collections: BTreeMap<String, Parts>,
    /// The hash parts in the keys of tombstones.
    pub removed: Paths,
}

/// Lists the collections.
///
/// # Errors
/// When the bucket fails.
pub async fn list(bucket: &dyn Bucket) -> Result<Listed> {
    let mut listed = Listed::default();
    let mut removed = Vec::new();
    let (mut next, mut count) = (None, 0);
    loop {
        let page = bucket.list(COLLECTIONS, next.as_ref(), Depth::Flat).await?;
        count += page.objects.len();
        for object in page.objects {
            if let Some(digest) = tombstone(&object.key) {
                removed.push(digest);
            }
            let Some((id, part)) = Part::parse(&object.key) else { continue };
            let parts = listed.collections.entry(id.to_owned()).or_default();
            match part {
                Part::Condemned => parts.condemned = true,
                Part::Closing => parts.closing = true,
                Part::Final => parts.last = true,
                Part::Done => parts.done = true,
                Part::Rescue(_) | Part::Piece => {}
            }
            parts.keys.push(object.key);
        }
        next = page.next;
        if next.is_none() {
            break;
        }
        if count > MOST {
            return Err(Error::permanent(Area::Bucket, format!("cannot list `{COLLECTIONS}`"))
                .because("the listing has no end"));
        }
    }
    listed.removed = removed.into_iter().collect();
    Ok(listed)
}

fn tombstone(key: &str) -> Option<HashPart> {
    let hash = key.strip_prefix(TOMBSTONES)?.strip_suffix(".json")?;
    nixbase32::decode(hash.as_bytes()).ok()?.try_into().ok()
}

/// A list of a collection.
#[derive(Clone, Debug, Default)]
pub struct OpenList {
    /// Whether a person has asked for this collection.
    pub removal: bool,
    /// What is in the list.
    pub list: List,
}

/// Reads `condemned` or `final` of a collection. `None` if the collection has ended meanwhile.
///
/// # Errors
/// When the bucket fails, or the list is damaged.
pub async fn read_list(bucket: &dyn Bucket, id: &str, is_final: bool) -> Result<Option<OpenList>> {
    let key = list_key(id, is_final);
    match try_list(bucket, &key).await {
        Ok(list) => Ok(Some(list)),
        Err(error) => match bucket.head(&Part::Done.key(id)).await {
            Ok(Some(_)) => Ok(None),
            // The objects of a collection that has ended are removed, `done` last.
            Ok(None) if bucket.head(&key).await?.is_none() => Ok(None),
            _ => Err(error),
        },
    }
}

async fn try_list(bucket: &dyn Bucket, key: &str) -> Result<OpenList> {
    let damaged = |reason: String| {
        Error::transient(Area::Bucket, format!("cannot understand `{key}`"))
            .because(reason)
            .hint("`larder collect --yes` ends a collection that is damaged")
    };
    let missing = |key: &str| damaged(format!("`{key}` is not in the bucket"));
    let header = bucket.get(key).await?.ok_or_else(|| missing(key))?;
    let header = Header::parse(&header.body).map_err(damaged)?;
    let reads = (0..header.pieces).map(|number| async move {
        let key = piece(key, number);
        Ok::<_, Error>(bucket.get(&key).await?.map(|object| object.body).ok_or(key))
    });
    let pieces: Vec<_> = stream::iter(reads).buffered(CONCURRENT).try_collect().await?;
    let pieces = pieces.into_iter().collect::<Result<Vec<_>, _>>().map_err(|key| missing(&key))?;
    let list = List::decode(&header, &pieces).map_err(damaged)?;
    Ok(OpenList { removal: header.removal, list })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::memory::MemoryBucket;
    use crate::bucket::{Condition, ContentType};
    use crate::format::object_keys;
    use crate::protocol::names::Members;

    async fn put(bucket: &MemoryBucket, key: &str, body: impl Into<Vec<u8>>) {
        let body: Vec<u8> = body.into();
        bucket.put(key, body.into(), ContentType::Text, Condition::None).await.unwrap();
    }

    async fn put_list(bucket: &MemoryBucket, key: &str, paths: &[HashPart]) {
        let list = List { levels: vec![paths.to_vec()], objects: vec!["nar/x".into()] };
        let (header, pieces) = list.encode(false);
        for (number, contents) in (0..).zip(pieces) {
            put(bucket, &piece(key, number), contents).await;
        }
        put(bucket, key, header).await;
    }

    fn has(open: &Open<BucketNames>) -> Vec<u8> {
        (0..10).filter(|number| open.paths.has(&[*number; 20])).collect()
    }

    #[tokio::test]
    async fn a_collection_is_read_from_its_beginning_to_its_end() {
        let (bucket, id) = (MemoryBucket::default(), object_keys::new_writer());
        let mut looker = Looker::default();
        assert!(looker.look(&bucket).await.unwrap().open.is_empty());
        put_list(&bucket, &Part::Condemned.key(&id), &[[1; 20], [2; 20]]).await;
        let open = looker.look(&bucket).await.unwrap().open.remove(0);
        assert_eq!((open.stage, has(&open), open.rescuable), (Stage::Condemned, vec![1, 2], true));
        put(&bucket, &Part::Closing.key(&id), "{}").await;
        let open = looker.look(&bucket).await.unwrap().open.remove(0);
        assert_eq!((open.stage, has(&open)), (Stage::Closing, vec![1, 2]));
        put_list(&bucket, &Part::Final.key(&id), &[[2; 20]]).await;
        let open = looker.look(&bucket).await.unwrap().open.remove(0);
        assert_eq!(
            (open.stage, has(&open), open.nars.has(&"nar/x".into())),
            (Stage::Deleting, vec![2], true)
        );
        // Somebody has deleted an object: what is being deleted stays known.
        bucket.delete(&Part::Condemned.key(&id)).await.unwrap();
        assert_eq!(Looker::default().look(&bucket).await.unwrap().open.len(), 1);
        put(&bucket, &Part::Done.key(&id), "{}").await;
        assert!(looker.look(&bucket).await.unwrap().open.is_empty());
    }

    #[tokio::test]
    async fn the_short_form_is_read_unless_it_is_damaged() {
        let (bucket, id) = (MemoryBucket::default(), object_keys::new_writer());
        let key = Part::Condemned.key(&id);
        let list = List { levels: vec![vec![[1; 20], [2; 20]]], objects: vec!["nar/x".into()] };
        put_list(&bucket, &key, &[[1; 20], [2; 20]]).await;
        put(&bucket, &members::key(&key), members::encode(&list)).await;
        let look = async || Looker::default().look(&bucket).await.map(|mut found| found.open.remove(0));
        let mut open = look().await.unwrap();
        assert!(matches!((&open.paths, &open.nars), (InList::Short(..), InList::Short(..))));
        assert_eq!((has(&open), open.nars.has(&"nar/x".into())), (vec![1, 2], true));
        open.paths.spare([1; 20]);
        assert_eq!(has(&open), [2]);
        // Nobody needs the list itself.
        bucket.delete(&piece(&key, 0)).await.unwrap();
        assert_eq!(has(&look().await.unwrap()), [1, 2]);
        put(&bucket, &members::key(&key), "rubbish").await;
        assert!(look().await.is_err(), "the list is read, and lacks a piece");
        put_list(&bucket, &key, &[[1; 20], [2; 20]]).await;
        assert!(matches!(look().await.unwrap().paths, InList::Whole(_)));
    }

    #[tokio::test]
    async fn a_damaged_list_is_an_error_and_a_tombstone_is_read() {
        let (bucket, id) = (MemoryBucket::default(), object_keys::new_writer());
        put(&bucket, &format!("{TOMBSTONES}{}.json", nixbase32::encode(&[7; 20])), "{}").await;
        let found = Looker::default().look(&bucket).await.unwrap();
        assert_eq!(found.removed.iter().collect::<Vec<_>>(), [&[7; 20]]);
        put_list(&bucket, &Part::Condemned.key(&id), &[[1; 20]]).await;
        put(&bucket, &piece(&Part::Condemned.key(&id), 0), "rubbish").await;
        assert!(Looker::default().look(&bucket).await.is_err());
        bucket.delete(&piece(&Part::Condemned.key(&id), 0)).await.unwrap();
        assert!(Looker::default().look(&bucket).await.is_err());
    }
}
