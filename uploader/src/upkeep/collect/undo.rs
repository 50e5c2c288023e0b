//! Brings back what a collection has taken. Its narinfos are saved, and their NARs stand for the grace of NARs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Condition, Depth, ObjectMeta};
use crate::format::collection::{COLLECTED, Saved, Summary, saved, summary_id};
use crate::format::named_paths::NamedPaths;
use crate::format::object_keys::narinfo_of;
use crate::protocol::look::levels;
use crate::protocol::names::Set;
use crate::protocol::rules::Rules;
use crate::session::{BucketNames, HashPart, Paths, Session};

/// The number of narinfos that are brought back at the same time.
const CONCURRENT: usize = 32;

/// A collection of the past, which can be undone.
#[derive(Clone, Debug)]
pub struct Past {
    /// The id.
    pub id: String,
    /// The time since it began to delete.
    pub age: Option<Duration>,
    /// What it has taken.
    pub summary: Summary,
}

/// What became of a path.
#[derive(Clone, Debug)]
pub enum Undone {
    /// Clients can take it again.
    Back,
    /// The bucket had it again already.
    Present,
    /// It cannot be brought back, for this reason.
    Lost(String),
}

/// The collections that can be undone, the latest first.
///
/// # Errors
/// When the bucket fails.
pub async fn past(bucket: &dyn Bucket) -> Result<Vec<Past>> {
    let mut past = Vec::new();
    for object in objects(bucket).await? {
        let Some(id) = summary_id(&object.key) else { continue };
        let Some(found) = bucket.get(&object.key).await? else { continue };
        let summary: Summary = serde_json::from_slice(&found.body).map_err(|error| {
            Error::permanent(Area::Bucket, format!("cannot understand `{}`", object.key)).because(error)
        })?;
        past.push(Past { id: id.to_owned(), age: object.age, summary });
    }
    past.sort_by_key(|past| past.age.unwrap_or_default());
    Ok(past)
}

async fn objects(bucket: &dyn Bucket) -> Result<Vec<ObjectMeta>> {
    let (mut objects, mut next) = (Vec::new(), None);
    loop {
        let page = bucket.list(COLLECTED, next.as_ref(), Depth::Flat).await?;
        objects.extend(page.objects);
        next = page.next;
        if next.is_none() {
            return Ok(objects);
        }
    }
}

/// Removes what collections have saved and nobody can bring back any more, because the NARs may be gone.
///
/// # Errors
/// When the bucket fails.
pub(super) async fn expire(bucket: &dyn Bucket, grace: Duration) -> Result<()> {
    if grace.is_zero() {
        return Ok(());
    }
    let old = objects(bucket).await?.into_iter().filter(|object| object.age.is_some_and(|age| age > grace));
    let keys: Vec<_> = old.map(|object| object.key).collect();
    bucket.delete_many(&keys).await
}

/// The narinfos that collections have taken.
#[derive(Debug, Default)]
struct Taken(BTreeMap<HashPart, (Vec<u8>, NamedPaths)>);

impl Taken {
    async fn add(&mut self, bucket: &dyn Bucket, past: &Past) -> Result<()> {
        for number in 0..past.summary.pieces {
            let key = saved(&past.id, number);
            let broken = |reason: String| {
                Error::permanent(Area::Bucket, format!("cannot read `{key}`")).because(reason)
            };
            let found = bucket.get(&key).await?.ok_or_else(|| broken("it is not in the bucket".into()))?;
            for (digest, narinfo) in Saved::decode(&found.body).map_err(broken)? {
                let named = NamedPaths::read(&narinfo).filter(|named| named.path == digest);
                if let Some(named) = named {
                    self.0.entry(digest).or_insert((narinfo, named));
                }
            }
        }
        Ok(())
    }
}

/// Brings back what the collection `id` has taken, together with what it refers to and other collections have taken.
/// References come first, so that clients never see a path without them.
///
/// # Errors
/// When the bucket fails, the session is over, or the collection is not known.
pub async fn undo(session: &Session, id: &str, mut report: impl FnMut(&HashPart, &Undone)) -> Result<()> {
    let bucket = &**session.bucket();
    let all = past(bucket).await?;
    let wanted = all.iter().find(|past| past.id == id).ok_or_else(|| {
        Error::permanent(Area::Usage, format!("cannot undo `{id}`"))
            .because("no collection of this id can be undone")
            .hint("`larder collect --undo` without an id names them")
    })?;
    let mut taken = Taken::default();
    taken.add(bucket, wanted).await?;
    let mut roots: Vec<HashPart> = taken.0.keys().copied().collect();
    for other in all.iter().filter(|past| past.id != id) {
        taken.add(bucket, other).await?;
    }
    let mut wanted = Paths::default();
    while let Some(path) = roots.pop() {
        if let Some((_, named)) = taken.0.get(&path)
            && !wanted.contains(&path)
        {
            wanted.insert(path);
            roots.extend(named.references.iter().copied());
        }
    }
    let cleared: Vec<_> = wanted.iter().copied().collect();
    session.clear(cleared.iter()).await?;
    let references =
        |path: &HashPart| taken.0.get(path).map_or_else(Vec::new, |(_, named)| named.references.clone());
    let mut lost: BTreeSet<HashPart> = BTreeSet::new();
    let removed = session.removed();
    for level in levels::<BucketNames>(&wanted, references, Rules::ALL).into_iter().rev() {
        let tries: Vec<_> = level
            .iter()
            .filter_map(|path| Some((*path, taken.0.get(path)?)))
            .map(|(path, (narinfo, named))| {
                let is_removed = removed.contains(&path);
                let is_lost = |path: &&HashPart| lost.contains(*path) || removed.contains(*path);
                let without = match named.references.iter().find(is_lost) {
                    _ if is_removed => Some("`larder remove` has removed it for good"),
                    Some(_) => Some("a path that it refers to cannot be brought back"),
                    None => None,
                };
                bring_back(session, path, narinfo.clone(), named.url.clone(), without)
            })
            .collect();
        let done: Vec<_> = stream::iter(tries).buffer_unordered(CONCURRENT).try_collect().await?;
        for (path, undone) in done {
            if matches!(undone, Undone::Lost(_)) {
                lost.insert(path);
            }
            report(&path, &undone);
        }
    }
    Ok(())
}

async fn bring_back(
    session: &Session,
    path: HashPart,
    narinfo: Vec<u8>,
    nar: String,
    without: Option<&'static str>,
) -> Result<(HashPart, Undone)> {
    if let Some(reason) = without {
        return Ok((path, Undone::Lost(reason.into())));
    }
    let since = Moment::now();
    let bucket = session.bucket();
    if bucket.head(&narinfo_of(&path)).await?.is_some() {
        return Ok((path, Undone::Present));
    }
    if !session.nar_counts(&nar) || bucket.head(&nar).await?.is_none() {
        return Ok((path, Undone::Lost(format!("its NAR `{nar}` is gone"))));
    }
    session.put_narinfo(narinfo, Condition::IfAbsent, since).await?;
    Ok((path, Undone::Back))
}
