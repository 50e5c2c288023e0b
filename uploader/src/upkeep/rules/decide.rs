//! Decides what stays.

use std::time::Duration;

use super::decision::{Decision, Keeper, NO_PARENT, Row, Verdict};
use super::uses::{Use, Uses, seconds};
use crate::format::pin::Generation;
use crate::upkeep::inventory::{Catalog, PathId, PathSet};

/// What was needed this lately stays, whatever the rules say: builds that use it may still run.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);

/// The rules, apart from the pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What was needed within this time stays.
    pub keep_within: Option<Duration>,
    /// The most bytes of narinfos and NARs. What was needed least lately goes first.
    pub max_size: Option<u64>,
    /// What was needed within this time stays in any case: [`GRACE`], but for tests.
    pub grace: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { keep_within: None, max_size: None, grace: GRACE }
    }
}

/// Decides over all paths of the catalog. `pins` are the generations that count. The time is linear in the paths and their
/// references, apart from sorting the paths by age.
///
/// Without any pin and any rule, everything stays.
pub fn decide(catalog: &Catalog, pins: &[Generation], rules: &Rules, uses: &Uses) -> Decision {
    let mut work = Work::new(catalog);
    work.pins(pins);
    let has_rule = !pins.is_empty() || rules.keep_within.is_some() || rules.max_size.is_some();
    let mut sources: Vec<(Option<(u32, Use)>, PathId)> =
        catalog.ids().map(|id| (uses.latest(catalog, id), id)).collect();
    // `None`, an unknown time, comes first: it may be the latest.
    sources.sort_unstable();
    let mut is_full = false;
    for (need, root) in sources {
        let group = work.flood(root, need);
        if group.is_empty() {
            continue;
        }
        let size = work.size(&group);
        let verdict = if has_rule { verdict(rules, need) } else { Verdict::Stays(Keeper::NoRule) };
        let is_optional = matches!(verdict, Verdict::Stays(Keeper::Within | Keeper::Fits));
        let exceeds =
            rules.max_size.is_some_and(|most| work.decision.staying_bytes.saturating_add(size) > most);
        // Nothing that was needed earlier stays in the place of what does not fit.
        is_full |= is_optional && exceeds;
        work.settle(&group, if is_optional && is_full { Verdict::TooLarge } else { verdict });
    }
    work.decision
}

/// What the rules say of a path that was last needed at this time, without regard to the size of the bucket.
fn verdict(rules: &Rules, need: Option<(u32, Use)>) -> Verdict {
    let Some((ago, _)) = need else { return Verdict::Stays(Keeper::Young) };
    let (grace, within) = (seconds(rules.grace), rules.keep_within.map(seconds));
    if ago < grace {
        return Verdict::Stays(Keeper::Young);
    }
    match within {
        Some(within) if ago < within => Verdict::Stays(Keeper::Within),
        None if rules.max_size.is_some() => Verdict::Stays(Keeper::Fits),
        _ => Verdict::Old(Duration::from_secs((ago - grace.max(within.unwrap_or(0))).into())),
    }
}

/// The work on a decision.
struct Work<'a> {
    catalog: &'a Catalog,
    present: PathSet,
    reached: PathSet,
    /// The NARs that stay, by their numbers.
    nars: Vec<bool>,
    decision: Decision,
}

impl<'a> Work<'a> {
    fn new(catalog: &'a Catalog) -> Self {
        let (size, nars) = (catalog.size(), catalog.nars().iter().count());
        let rows = vec![Row { verdict: None, parent: NO_PARENT, need: None }; size];
        let decision = Decision { rows, ..Decision::default() };
        let present = PathSet::of(size, catalog.ids());
        Self { catalog, present, reached: PathSet::new(size), nars: vec![false; nars], decision }
    }

    /// Keeps what the pins name.
    fn pins(&mut self, pins: &[Generation]) {
        for (place, generation) in pins.iter().enumerate() {
            for path in generation.pin.store_paths() {
                let Some(root) = self.catalog.find(path.digest()) else {
                    self.decision.missing.push((place, path.to_basename().to_string()));
                    continue;
                };
                let group = self.flood(root, None);
                self.settle(&group, Verdict::Stays(Keeper::Pin(place)));
            }
        }
    }

    /// The path and all that it refers to, as far as nothing has reached it before.
    fn flood(&mut self, root: PathId, need: Option<(u32, Use)>) -> Vec<PathId> {
        let Self { catalog, present, reached, decision, .. } = self;
        if !reached.insert(root) {
            return Vec::new();
        }
        let mut group = vec![root];
        decision.rows[root.0 as usize].need = need;
        let mut done = 0;
        while let Some(id) = group.get(done).copied() {
            done += 1;
            for next in catalog.present_references(id) {
                if present.contains(next) && reached.insert(next) {
                    let row = &mut decision.rows[next.0 as usize];
                    (row.parent, row.need) = (id.0, need);
                    group.push(next);
                }
            }
        }
        group
    }

    /// The bytes that the paths add to what stays.
    fn size(&self, group: &[PathId]) -> u64 {
        let mut nars: Vec<_> = group.iter().filter_map(|id| self.catalog.nar(*id)).collect();
        nars.sort_unstable();
        nars.dedup();
        let new = nars.iter().filter(|nar| !self.nars.get(nar.0 as usize).copied().unwrap_or(false));
        let nars = new.map(|nar| self.catalog.nar_object(*nar).1.size).fold(0, u64::saturating_add);
        group.iter().map(|id| self.catalog.narinfo(*id).size).fold(nars, u64::saturating_add)
    }

    /// Gives the paths their verdict.
    fn settle(&mut self, group: &[PathId], verdict: Verdict) {
        let stays = matches!(verdict, Verdict::Stays(_));
        if stays {
            self.decision.staying_bytes = self.decision.staying_bytes.saturating_add(self.size(group));
        }
        for id in group {
            self.decision.rows[id.0 as usize].verdict = Some(verdict);
            if !stays {
                continue;
            }
            if self.catalog.name(*id).is_none() {
                self.decision.unreadable.push(*id);
            }
            let nar = self.catalog.nar(*id).and_then(|nar| self.nars.get_mut(nar.0 as usize));
            nar.into_iter().for_each(|stays| *stays = true);
        }
    }
}
