//! Brings back what a collection has taken. Its narinfos are saved, and their NARs stand for the grace of NARs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use super::lists::objects;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result, Retry};
use crate::bucket::{Bucket, Condition, ObjectMeta};
use crate::format::collection::{COLLECTED, Saved, Summary, piece_id, saved, summary_id};
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
    for object in objects(bucket, COLLECTED).await? {
        let Some(id) = summary_id(&object.key) else { continue };
        let Some(found) = bucket.get(&object.key).await? else { continue };
        // A damaged summary must not keep others from being undone.
        let Ok(summary) = serde_json::from_slice::<Summary>(&found.body) else { continue };
        past.push(Past { id: id.to_owned(), age: object.age, summary });
    }
    past.sort_by_key(|past| past.age.unwrap_or_default());
    Ok(past)
}

/// Removes what collections have saved and nobody can bring back any more, because the NARs may be gone.
///
/// # Errors
/// When the bucket fails.
pub(super) async fn expire(bucket: &dyn Bucket, grace: Duration) -> Result<()> {
    let objects = objects(bucket, COLLECTED).await?;
    let is_old = |object: &&ObjectMeta| grace.is_zero() || object.age.is_some_and(|age| age > grace);
    let (summaries, pieces): (Vec<_>, Vec<_>) =
        objects.iter().partition(|object| summary_id(&object.key).is_some());
    // A summary goes before its pieces, and the pieces stay as long as it does: it names no piece that is missing.
    let (old, young): (Vec<_>, Vec<_>) = summaries.into_iter().partition(is_old);
    let stays: BTreeSet<&str> = young.iter().filter_map(|object| summary_id(&object.key)).collect();
    let goes =
        |object: &&&ObjectMeta| is_old(object) && piece_id(&object.key).is_none_or(|id| !stays.contains(id));
    let keys =
        |objects: Vec<&ObjectMeta>| objects.iter().map(|object| object.key.clone()).collect::<Vec<_>>();
    bucket.delete_many(&keys(old)).await?;
    let pieces: Vec<_> = pieces.iter().filter(goes).copied().collect();
    bucket.delete_many(&keys(pieces)).await
}

/// What collections have taken.
#[derive(Debug, Default)]
struct Taken {
    /// The narinfos.
    narinfos: BTreeMap<HashPart, (Vec<u8>, NamedPaths)>,
    /// The references that the bucket did not have then: clients get them from upstream.
    upstream: BTreeSet<HashPart>,
}

impl Taken {
    /// Adds what can be read: damage to one collection makes at most its own paths lost.
    async fn add_readable(&mut self, bucket: &dyn Bucket, past: &Past) -> Result<()> {
        match self.add(bucket, past).await {
            Err(error) if error.retry() != Retry::Permanent => Err(error),
            _ => Ok(()),
        }
    }

    /// What of the closure of `roots` was taken, and the other references.
    fn closure(&self, mut roots: Vec<HashPart>) -> (Paths, BTreeSet<HashPart>) {
        let (mut taken, mut others) = (Paths::default(), BTreeSet::new());
        while let Some(path) = roots.pop() {
            let Some((_, named)) = self.narinfos.get(&path) else {
                others.insert(path);
                continue;
            };
            if !taken.contains(&path) {
                taken.insert(path);
                roots.extend(named.references.iter().copied());
            }
        }
        (taken, others)
    }

    async fn add(&mut self, bucket: &dyn Bucket, past: &Past) -> Result<()> {
        for number in 0..past.summary.pieces {
            let key = saved(&past.id, number);
            let broken = |reason: String| {
                Error::permanent(Area::Bucket, format!("cannot read `{key}`")).because(reason)
            };
            let found = bucket.get(&key).await?.ok_or_else(|| broken("it is not in the bucket".into()))?;
            for (digest, narinfo) in Saved::decode(&found.body).map_err(broken)? {
                if narinfo.is_empty() {
                    self.upstream.insert(digest);
                    continue;
                }
                let named = NamedPaths::read(&narinfo).filter(|named| named.path == digest);
                if let Some(named) = named {
                    self.narinfos.entry(digest).or_insert((narinfo, named));
                }
            }
        }
        Ok(())
    }
}

/// Those of the narinfos of these paths that collections have taken and that are still saved.
///
/// # Errors
/// When the bucket fails.
pub(super) async fn saved_narinfos(bucket: &dyn Bucket, digests: &[HashPart]) -> Result<Vec<NamedPaths>> {
    let mut taken = Taken::default();
    for past in past(bucket).await? {
        taken.add_readable(bucket, &past).await?;
    }
    Ok(digests.iter().filter_map(|digest| taken.narinfos.remove(digest)).map(|(_, named)| named).collect())
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
    let roots: Vec<HashPart> = taken.narinfos.keys().copied().collect();
    for other in all.iter().filter(|past| past.id != id) {
        taken.add_readable(bucket, other).await?;
    }
    let (wanted, others) = taken.closure(roots);
    let cleared: Vec<_> = wanted.iter().chain(&others).copied().collect();
    session.clear(cleared.iter()).await?;
    let references = |path: &HashPart| {
        taken.narinfos.get(path).map_or_else(Vec::new, |(_, named)| named.references.clone())
    };
    let since = Moment::now();
    let mut lost = absent(bucket, others.difference(&taken.upstream)).await?;
    let removed = session.removed();
    for level in levels::<BucketNames>(&wanted, references, Rules::ALL).into_iter().rev() {
        let tries: Vec<_> = level
            .iter()
            .filter_map(|path| Some((*path, taken.narinfos.get(path)?)))
            .map(|(path, (narinfo, named))| {
                let is_removed = removed.contains(&path);
                let is_lost = |path: &&HashPart| lost.contains(*path) || removed.contains(*path);
                let without = match named.references.iter().find(is_lost) {
                    _ if is_removed => Some("`larder remove` has removed it for good"),
                    Some(_) => Some("a path that it refers to cannot be brought back"),
                    None => None,
                };
                bring_back(session, path, (narinfo.clone(), named.url.clone()), since, without)
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

/// Those of these paths that the bucket does not have.
async fn absent(bucket: &dyn Bucket, paths: impl Iterator<Item = &HashPart>) -> Result<BTreeSet<HashPart>> {
    let asked = paths.map(|path| async move {
        Ok::<_, Error>(bucket.head(&narinfo_of(path)).await?.is_none().then_some(*path))
    });
    let answers: Vec<_> =
        stream::iter(asked.collect::<Vec<_>>()).buffer_unordered(CONCURRENT).try_collect().await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Publishes a narinfo that names this NAR. `since` is the moment since when its references are known to be there.
async fn bring_back(
    session: &Session,
    path: HashPart,
    (narinfo, nar): (Vec<u8>, String),
    since: Moment,
    without: Option<&'static str>,
) -> Result<(HashPart, Undone)> {
    if let Some(reason) = without {
        return Ok((path, Undone::Lost(reason.into())));
    }
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
