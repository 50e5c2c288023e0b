//! Mends paths within a session with the bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use nix_derivation::StorePath;

use super::decide::{Plan, Way};
use super::examine::{Examiner, State, store_infos};
use super::fetch::Fetcher;
use super::nars::Obtainer;
use super::outcome::{How, Mended, Mending};
use super::repoint::{Repointed, Repointer};
use super::take_back::above;
use crate::base::clock::Moment;
use crate::push::{Outcome, Progress, Pusher, Request, Root};
use crate::upkeep::inventory::Catalog;

/// The number of NARs that are obtained at the same time.
const CONCURRENT: usize = 8;
/// The number of paths above those at fault that the store is asked for.
const MOST_ABOVE: usize = 20_000;

/// Mends paths.
pub struct Repairer<'a> {
    /// The session, the keys and the rules.
    pub pusher: &'a Pusher,
    /// The bucket, the store and the other caches.
    pub examiner: Examiner<'a>,
    /// Is told about NARs that are sent.
    pub progress: Arc<dyn Progress>,
}

impl Repairer<'_> {
    /// Mends paths as planned. Each result goes to `report` as soon as it is known.
    ///
    /// At each instant, what clients can take is a part of what they can take in the end: NARs get new keys, and a narinfo is
    /// changed only when its NAR and its references are there.
    pub async fn mend(
        &self,
        catalog: &Catalog,
        plans: Vec<Plan>,
        mut report: impl FnMut(&Plan, &Mending),
    ) -> Vec<Mended> {
        let mut done: Vec<Mended> = Vec::new();
        let mut settle = |plan: Plan, mending: Mending| {
            report(&plan, &mending);
            done.push((plan, mending));
        };
        let mut waiting = Vec::new();
        for (plan, mending) in self.mend_nars(plans).await {
            match mending {
                Mending::Left(why)
                    if plan.ways.iter().any(|way| matches!(way, Way::Push | Way::Fetch(_))) =>
                {
                    waiting.push((plan, why));
                }
                mending => settle(plan, mending),
            }
        }
        // References come first, which the paths above them need.
        let mut pushed = self.push(catalog, &waiting).await;
        let mut fetcher = Fetcher::new(self.pusher, self.examiner, &self.progress);
        for (plan, why) in waiting {
            let path = plan.examined.patient.path.clone();
            let mending = match path.as_ref().and_then(|path| pushed.remove(path)) {
                Some(Ok(())) => Mending::Mended(How::Pushed),
                other => {
                    let why = other.and_then(Result::err).filter(|why| !why.is_empty()).unwrap_or(why);
                    self.fetch(&mut fetcher, &plan, why).await
                }
            };
            settle(plan, mending);
        }
        done
    }

    /// Mends the paths for which only a NAR is needed. The others are left without a reason.
    async fn mend_nars(&self, plans: Vec<Plan>) -> Vec<Mended> {
        let mut groups: BTreeMap<[u8; 32], Vec<Plan>> = BTreeMap::new();
        let mut done = Vec::new();
        for plan in plans {
            match &plan.examined.state {
                State::Vouched(claim) => groups.entry(claim.info.nar_hash).or_default().push(plan),
                _ => {
                    let why = plan.reason.clone();
                    done.push((plan, Mending::Left(why)));
                }
            }
        }
        let groups = groups.into_values().map(|plans| self.mend_group(plans));
        let mended: Vec<_> = stream::iter(groups).buffer_unordered(CONCURRENT).collect().await;
        done.extend(mended.into_iter().flatten());
        done
    }

    /// Mends the paths with one NAR.
    async fn mend_group(&self, plans: Vec<Plan>) -> Vec<Mended> {
        let session = self.pusher.session();
        let obtainer = Obtainer {
            bucket: &**session.bucket(),
            sender: self.pusher.sender(),
            sources: self.examiner.sources,
            progress: &self.progress,
        };
        let since = Moment::now();
        let (object, how) = match obtainer.obtain(&plans).await {
            Ok(found) => found,
            Err(why) => {
                let left = |plan: Plan| {
                    let why = if why.is_empty() { plan.reason.clone() } else { why.clone() };
                    (plan, Mending::Left(why))
                };
                return plans.into_iter().map(left).collect();
            }
        };
        let repointer =
            Repointer { session, store_dir: self.examiner.store_dir, trusted: self.examiner.trusted };
        let mut done = Vec::new();
        for plan in plans {
            let State::Vouched(claim) = &plan.examined.state else { continue };
            let mending = match repointer.repoint(claim, &object, since).await {
                Ok(Repointed::Done) => Mending::Mended(how.clone()),
                Ok(Repointed::ByAnother) => Mending::Mended(How::ByAnother),
                Ok(Repointed::Changed(why)) => Mending::Left(why.to_owned()),
                Err(error) => Mending::Left(error.to_string()),
            };
            done.push((plan, mending));
        }
        done
    }

    /// Pushes paths from the local store by the rules, together with the paths above them that this machine has built: what a
    /// build used is trusted with it. Returns for each path why it was not pushed.
    async fn push(
        &self,
        catalog: &Catalog,
        waiting: &[(Plan, String)],
    ) -> BTreeMap<StorePath, Result<(), String>> {
        let wanted: Vec<StorePath> = waiting
            .iter()
            .filter(|(plan, _)| plan.ways.contains(&Way::Push))
            .filter_map(|(plan, _)| plan.examined.patient.path.clone())
            .collect();
        if wanted.is_empty() {
            return BTreeMap::new();
        }
        let mut roots: BTreeSet<StorePath> = wanted.iter().cloned().collect();
        roots.extend(self.builders(catalog, waiting).await);
        let request = Request {
            roots: roots
                .into_iter()
                .map(|path| Root { path: path.into(), built_here: false, derivation: None })
                .collect(),
            doubted: wanted.iter().cloned().collect(),
            ..Request::default()
        };
        let report = match self.pusher.push(request, self.progress.clone()).await {
            Ok(report) => report,
            Err(error) => return wanted.into_iter().map(|path| (path, Err(error.to_string()))).collect(),
        };
        let result = |path: StorePath| {
            let result = match report.outcomes.get(&path) {
                // A narinfo that no client can use hides what upstream has.
                None | Some(Outcome::Upstream) => Err(String::new()),
                Some(outcome) if outcome.is_available() => Ok(()),
                Some(outcome) => Err(outcome.reason().unwrap_or_else(|| outcome.kind().word().to_owned())),
            };
            (path, result)
        };
        wanted.into_iter().map(result).collect()
    }

    /// The paths above those at fault that this machine has built.
    async fn builders(&self, catalog: &Catalog, waiting: &[(Plan, String)]) -> Vec<StorePath> {
        let digests = waiting.iter().map(|(plan, _)| plan.examined.patient.digest).collect();
        let paths: Vec<_> =
            above(catalog, &digests).iter().filter_map(|id| catalog.path(id)).take(MOST_ABOVE).collect();
        let Some(store) = self.examiner.store.cloned() else { return Vec::new() };
        let infos = store_infos(store, paths).await.unwrap_or_default();
        infos.into_iter().flatten().filter(|info| info.ultimate).map(|info| (*info.path).clone()).collect()
    }

    /// Takes a path that could not be pushed from another cache, or sends it alone.
    async fn fetch(&self, fetcher: &mut Fetcher<'_>, plan: &Plan, why: String) -> Mending {
        let examined = &plan.examined;
        let Some(path) = examined.patient.path.clone() else { return Mending::Left(why) };
        let in_store = match &examined.state {
            State::Absent => None,
            _ => examined.in_store.clone(),
        };
        let has_source = plan.ways.iter().any(|way| matches!(way, Way::Fetch(_)));
        let mut reason = why;
        if let Some(info) = in_store {
            match fetcher.fetch(&path, Some(info)).await {
                Ok(()) => return Mending::Mended(How::Pushed),
                Err(why) if reason.is_empty() => reason = why,
                Err(_) => {}
            }
        }
        if has_source {
            match fetcher.fetch(&path, None).await {
                Ok(()) => return Mending::Mended(How::Fetched),
                Err(why) => reason = why,
            }
        }
        Mending::Left(reason)
    }
}
