//! Reads the bucket, and finds what may go. An uncertain view ends it.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use larder_hook::fault::{point, time_divisor};

use super::garbage::{Garbage, orphans};
use super::orphans::Records as Orphans;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Condition, ContentType, ObjectMeta};
use crate::format::need::{COMPACTED_AGE, Compaction, StandingNeed, compact, new_compacted};
use crate::format::object_keys::{self, CACHE_INFO, FORMAT, parse_nar};
use crate::format::pin::{Generation, PINS, effective};
use crate::session::HashPart;
use crate::survey::{read_needs, read_pins};
use crate::upkeep::inventory::{self, Catalog, MARGIN, Progress, Records, take};
use crate::upkeep::rules::{Decision, GRACE, Keeper, Rules, Uses, Verdict, decide};

/// The number of absent references about which the bucket is asked, to see that its listing is complete.
const ASKED: usize = 200;
/// The number of questions at the same time.
const CONCURRENT: usize = 32;

/// By what a collection decides.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The store directory, and the keys that clients trust.
    pub inventory: inventory::Options,
    /// The rules, besides the pins.
    pub rules: Rules,
    /// What is known of the needs of paths, besides the records in the bucket.
    pub uses: Uses,
    /// A NAR goes when no narinfo has named it for this long.
    pub nar_grace: Duration,
    /// Whether to collect although other programs, which hold no leases, have written lately.
    pub foreign_writers: bool,
    /// Whether a person names what goes, so that neither rules nor narinfos that cannot be read matter.
    pub without_rules: bool,
    /// Whether what a person removes must not be pinned when it goes.
    pub refuse_pinned: bool,
}

/// What a bucket holds, and what of it may go.
#[derive(Debug)]
pub struct Marking {
    /// The inventory.
    pub catalog: Catalog,
    /// The pins that count.
    pub pins: Vec<Generation>,
    /// What becomes of each path.
    pub decision: Decision,
    /// What may go.
    pub garbage: Garbage,
    orphans: Orphans,
    needs: Vec<StandingNeed>,
}

/// What keeps paths, and what becomes of them.
pub(super) struct Judged {
    pub(super) pins: Vec<Generation>,
    pub(super) decision: Decision,
    pub(super) needs: Vec<StandingNeed>,
}

/// Reads the bucket, and finds what may go.
///
/// # Errors
/// When anything fails, or the view is uncertain: the listing is short, a narinfo that stays cannot be read, a pin cannot be
/// read, other programs have written lately, or nothing says what may go.
pub async fn mark(
    bucket: &dyn Bucket,
    inputs: &Inputs,
    records: &mut dyn Records,
    progress: Progress<'_>,
) -> Result<Marking> {
    let begun = Moment::now();
    let catalog = take(bucket, &inputs.inventory, records, progress).await?;
    let orphans = Orphans::read(bucket).await?;
    let Judged { pins, decision, needs } = judge(bucket, inputs, &catalog, begun).await?;
    check_foreign(bucket, inputs, &catalog)?;
    let going = decision.going();
    let has_rule = !catalog.ids().any(|id| decision.verdict(id) == Some(Verdict::Stays(Keeper::NoRule)));
    if !has_rule && !inputs.without_rules {
        return Err(cannot(bucket)
            .because("no pin and no rule says what may go")
            .hint("pin what must stay (`larder pin`), or set `keep-within` or `max-size`"));
    }
    let old = orphans.old(&self::orphans(&catalog), inputs.nar_grace);
    let garbage = Garbage::of(&catalog, &going, old);
    Ok(Marking { catalog, pins, decision, garbage, orphans, needs })
}

/// Reads what keeps paths, and decides. Also checks that the inventory, which was begun at `begun`, is complete, as far as that
/// can be seen.
pub(super) async fn judge(
    bucket: &dyn Bucket,
    inputs: &Inputs,
    catalog: &Catalog,
    begun: Moment,
) -> Result<Judged> {
    let (pins, _) = effective(read_pins(bucket, PINS).await?);
    let mut needs = Vec::new();
    read_needs(bucket, &mut |need| needs.push(need)).await?;
    let mut uses = inputs.uses.clone();
    needs.iter().for_each(|need| uses.add_need(need));
    let decision = decide(catalog, &pins, &inputs.rules, &uses);
    // What a person removes goes whatever it refers to.
    if let Some(id) = decision.unreadable.first().filter(|_| !inputs.without_rules) {
        return Err(cannot(bucket)
            .because(format!(
                "the narinfo of `{}` stays and cannot be read, so that nobody knows what it refers to",
                catalog.hash_part(*id)
            ))
            .hint("`larder verify` shows such narinfos, and `larder repair` mends them"));
    }
    check_listing(bucket, catalog, &decision, begun).await?;
    Ok(Judged { pins, decision, needs })
}

/// A listing that lacks objects makes others look unneeded.
async fn check_listing(
    bucket: &dyn Bucket,
    catalog: &Catalog,
    decision: &Decision,
    begun: Moment,
) -> Result<()> {
    for key in [CACHE_INFO, FORMAT] {
        if catalog.others().find(key).is_none() {
            return Err(lacks(bucket, key));
        }
    }
    let pinned = decision.missing.iter().filter_map(|(_, base)| digest_of(base));
    let absent: Vec<_> = catalog.absent_ids().filter_map(|id| catalog.absent_path(id)).collect();
    let step = absent.len().div_ceil(ASKED).max(1);
    let sample = absent.iter().step_by(step).map(|path| *path.digest());
    let asked: Vec<_> = pinned.chain(sample).map(|digest| object_keys::narinfo_of(&digest)).collect();
    match standing(bucket, asked, begun).await? {
        Some(key) => Err(lacks(bucket, &key)),
        None => Ok(()),
    }
}

/// The first of these keys whose object is in the bucket, and was there when a listing began at `begun`.
pub(super) async fn standing(
    bucket: &dyn Bucket,
    keys: Vec<String>,
    begun: Moment,
) -> Result<Option<String>> {
    let asked = keys.into_iter().map(|key| async move {
        let found = bucket.head(&key).await?;
        let is_new = |meta: &ObjectMeta| meta.age.is_some_and(|age| age <= begun.elapsed() + MARGIN);
        Ok::<_, Error>(found.filter(|meta| !is_new(meta)).map(|_| key))
    });
    let mut answers = stream::iter(asked).buffer_unordered(CONCURRENT);
    while let Some(answer) = answers.try_next().await? {
        if answer.is_some() {
            return Ok(answer);
        }
    }
    Ok(None)
}

fn digest_of(base: &str) -> Option<HashPart> {
    nix_derivation::StorePath::from_basename(base.as_bytes()).ok().map(|path| *path.digest())
}

/// Programs such as `nix copy` hold no lease: only the grace protects what they are about to refer to.
pub(super) fn check_foreign(bucket: &dyn Bucket, inputs: &Inputs, catalog: &Catalog) -> Result<()> {
    let is_foreign = |id: &inventory::PathId| {
        catalog.nar(*id).is_some_and(|nar| parse_nar(catalog.nar_object(nar).0).is_none())
            && catalog.age(*id).is_none_or(|age| age < GRACE)
    };
    match catalog.ids().find(is_foreign) {
        Some(id) if !inputs.foreign_writers => Err(cannot(bucket)
            .because(format!(
                "another program than larder has written `{}` within the last 24 hours, and such programs do not tell when they \
                 are at work",
                catalog.basename(id)
            ))
            .hint("collect a day after their last push, or with `--foreign-writers` while none of them runs")),
        _ => Ok(()),
    }
}

/// The error of a listing that lacks an object which stands.
pub(super) fn lacks(bucket: &dyn Bucket, key: &str) -> Error {
    cannot(bucket)
        .because(format!("its listing is incomplete: it lacks `{key}`"))
        .hint("try again later; a server whose listings lack objects cannot be collected")
}

pub(super) fn cannot(bucket: &dyn Bucket) -> Error {
    Error::permanent(Area::Bucket, format!("cannot collect `{}`", bucket.address()))
}

impl Marking {
    /// Records for how long objects have been orphans.
    ///
    /// # Errors
    /// When the bucket fails.
    pub(super) async fn record_orphans(&self, bucket: &dyn Bucket) -> Result<()> {
        let catalog = &self.catalog;
        let exists = |key: &str| catalog.nars().find(key).is_some() || catalog.others().find(key).is_some();
        self.orphans.update(bucket, &orphans(catalog), exists).await
    }

    /// Puts the records of what pushes asked for together.
    ///
    /// # Errors
    /// When the bucket fails. No path looks as if it was needed earlier than it was then.
    pub(super) async fn compact_needs(&self, bucket: &dyn Bucket) -> Result<()> {
        let Compaction { written, deleted } =
            compact(&self.needs, COMPACTED_AGE / time_divisor(), &|digest| {
                self.catalog.find(digest).is_some()
            });
        for need in written {
            let body = need.to_json().into();
            bucket.put(&new_compacted(), body, ContentType::Json, Condition::IfAbsent).await?;
            point("collect: compacted");
        }
        bucket.delete_many(&deleted).await
    }
}
