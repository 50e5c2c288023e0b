//! The last look: what of the condemned paths goes. Nobody puts or uses them any more when it is taken.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::garbage::orphans;
use super::marking::{Inputs, Judged, cannot, check_foreign, judge, lacks, standing};
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::Bucket;
use crate::format::collection::{Part, decode_paths};
use crate::format::object_keys::narinfo_of;
use crate::format::pin::{Generation, PINS, effective};
use crate::protocol::look::{Kept, Narinfos, Taken, last_look, levels};
use crate::protocol::names::Set;
use crate::protocol::rules::Rules;
use crate::session::{BucketNames, HashPart, Keys, Paths, list};
use crate::survey::read_pins;
use crate::upkeep::inventory::{Catalog, PathFault, PathId, Records, take};

/// The number of rescues that are read at the same time.
const CONCURRENT: usize = 16;

/// What goes, after the last look.
#[derive(Debug)]
pub(super) struct Final {
    /// The inventory of the last look.
    pub(super) catalog: Catalog,
    /// The paths by the order in which they are deleted.
    pub(super) levels: Vec<Paths>,
    /// The paths, and the other objects.
    pub(super) taken: Taken<BucketNames>,
}

/// What is condemned, and what was known then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condemned<'a> {
    /// The id of the collection.
    pub(super) id: &'a str,
    /// The inventory of the marking.
    pub(super) catalog: &'a Catalog,
    /// What is condemned.
    pub(super) condemned: &'a Taken<BucketNames>,
    /// Whether a person has asked for it: then nothing keeps it.
    pub(super) removal: bool,
}

/// Takes the last look.
///
/// # Errors
/// When anything fails or is uncertain. The collection is given up then.
pub(super) async fn look(
    bucket: &dyn Bucket,
    inputs: &Inputs,
    of: Condemned<'_>,
    records: &mut dyn Records,
) -> Result<Final> {
    let rescued = rescues(bucket, of.id).await?;
    let begun = Moment::now();
    let now = take(bucket, &inputs.inventory, records, &|_, _| {}).await?;
    check_foreign(bucket, inputs, &now)?;
    check_vanished(bucket, &now, of.condemned, begun).await?;
    if of.removal && inputs.refuse_pinned {
        check_pins(bucket, of.condemned).await?;
    }
    let kept = match of.removal {
        true => Kept { recorded: Paths::default(), rescued: Paths::default() },
        false => Kept { recorded: recorded(bucket, inputs, &now, (of.condemned, begun)).await?, rescued },
    };
    let narinfos = Relook { before: of.catalog, now: &now };
    if let Some(id) = narinfos.unreadable() {
        return Err(cannot(bucket).because(format!(
            "the narinfo of `{}` was written meanwhile and cannot be read",
            now.hash_part(id)
        )));
    }
    let mut taken = last_look(of.condemned, &kept, &narinfos, Rules::ALL);
    // What others have deleted is gone.
    taken.paths = taken.paths.items().filter(|path| now.find(path).is_some()).collect();
    taken.nars = objects(&now, &taken, of.removal);
    check(bucket, &now, &taken.paths)?;
    let references = |path: &HashPart| narinfos.references(path);
    let levels = levels::<BucketNames>(&taken.paths, references, Rules::ALL);
    Ok(Final { catalog: now, levels, taken })
}

/// Somebody may have pinned a path since a person has asked to remove it.
async fn check_pins(bucket: &dyn Bucket, condemned: &Taken<BucketNames>) -> Result<()> {
    let (counting, ended) = effective(read_pins(bucket, PINS).await?);
    let keeps = |generation: &&Generation| {
        generation.pin.store_paths().any(|path| condemned.paths.contains(path.digest()))
    };
    let Some(generation) = counting.iter().chain(&ended).find(keeps) else { return Ok(()) };
    Err(cannot(bucket)
        .because(format!("the pin `{}` names a path that was to be removed", generation.name))
        .hint("`--unpin` also removes these generations of the pins"))
}

/// A condemned path that the listing lacks counts as deleted by others, and what it refers to may go. So the bucket is asked
/// about it.
async fn check_vanished(
    bucket: &dyn Bucket,
    now: &Catalog,
    condemned: &Taken<BucketNames>,
    begun: Moment,
) -> Result<()> {
    let vanished = condemned.paths.items().filter(|path| now.find(path).is_none());
    let keys = vanished.map(|path| narinfo_of(&path)).collect();
    standing(bucket, keys, begun).await?.map_or(Ok(()), |key| Err(lacks(bucket, &key)))
}

/// Of the condemned objects, those that no narinfo needs when the paths are gone.
fn objects(now: &Catalog, taken: &Taken<BucketNames>, removal: bool) -> Keys {
    let staying = now.ids().filter(|id| !removal || !taken.paths.contains(now.digest(*id)));
    let named: BTreeSet<&str> =
        staying.filter_map(|id| now.nar(id)).map(|nar| now.nar_object(nar).0).collect();
    let orphans = orphans(now);
    let goes = |key: &Arc<str>| match removal {
        true => !named.contains(&**key),
        false => orphans.contains(&**key),
    };
    taken.nars.items().filter(goes).collect()
}

/// The condemned paths that pins, records and rules keep now.
async fn recorded(
    bucket: &dyn Bucket,
    inputs: &Inputs,
    now: &Catalog,
    (condemned, begun): (&Taken<BucketNames>, Moment),
) -> Result<Paths> {
    let Judged { decision, .. } = judge(bucket, inputs, now, begun).await?;
    let stays = |path: &HashPart| now.find(path).is_some_and(|id| !decision.may_go(id));
    Ok(condemned.paths.items().filter(stays).collect())
}

/// Reads the rescues of a collection.
async fn rescues(bucket: &dyn Bucket, id: &str) -> Result<Paths> {
    let listed = list(bucket).await?;
    let keys = listed.collections.get(id).map(|parts| parts.keys.clone()).unwrap_or_default();
    let rescues = keys.into_iter().filter(|key| matches!(Part::parse(key), Some((_, Part::Rescue(_)))));
    let reads = rescues.map(|key| async move {
        let unreadable =
            |reason: String| Error::permanent(Area::Bucket, format!("cannot read `{key}`")).because(reason);
        let found = bucket.get(&key).await?.ok_or_else(|| unreadable("it has vanished".into()))?;
        decode_paths(&found.body).map_err(unreadable)
    });
    let read: Vec<_> = stream::iter(reads).buffer_unordered(CONCURRENT).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

/// The narinfos of the last look beside those of the marking.
struct Relook<'a> {
    before: &'a Catalog,
    now: &'a Catalog,
}

impl Relook<'_> {
    /// Whether the marking has seen this narinfo, as it is now.
    fn is_same(&self, id: PathId) -> bool {
        let before = self.before.find(self.now.digest(id));
        before.is_some_and(|before| self.before.narinfo(before).is_same(self.now.narinfo(id)))
    }

    /// A narinfo that the marking has not seen as it is now, and that cannot be read.
    fn unreadable(&self) -> Option<PathId> {
        let is_unreadable = |id: &PathId| {
            self.now.name(*id).is_none() && matches!(self.now.fault(*id), Some(PathFault::Narinfo(_)))
        };
        self.now.ids().find(|id| is_unreadable(id) && !self.is_same(*id))
    }

    fn references(&self, path: &HashPart) -> Vec<HashPart> {
        let Some(id) = self.now.find(path) else { return Vec::new() };
        self.now.present_references(id).map(|id| *self.now.digest(id)).collect()
    }
}

impl Narinfos<BucketNames> for Relook<'_> {
    fn read(&self, path: &HashPart) -> Option<(Vec<HashPart>, Arc<str>)> {
        let id = self.now.find(path)?;
        let nar = self.now.nar(id).map_or("", |nar| self.now.nar_object(nar).0);
        Some((self.references(path), Arc::from(nar)))
    }

    fn new_ones(&self) -> Vec<HashPart> {
        let new = self.now.ids().filter(|id| self.before.find(self.now.digest(*id)).is_none());
        new.map(|id| *self.now.digest(id)).collect()
    }

    fn changed_ones(&self) -> Vec<HashPart> {
        let is_old = |id: &PathId| self.before.find(self.now.digest(*id)).is_some();
        let changed = self.now.ids().filter(|id| is_old(id) && !self.is_same(*id));
        changed.map(|id| *self.now.digest(id)).collect()
    }
}

/// Checks by another way that nothing which stays refers to what goes.
fn check(bucket: &dyn Bucket, now: &Catalog, paths: &Paths) -> Result<()> {
    let staying = now.ids().filter(|id| !paths.contains(now.digest(*id)));
    for id in staying {
        if let Some(lost) = now.present_references(id).find(|id| paths.contains(now.digest(*id))) {
            return Err(cannot(bucket).because(format!(
                "`{}` stays and refers to `{}`, which would go: this is an error of larder",
                now.basename(id),
                now.basename(lost)
            )));
        }
    }
    Ok(())
}
