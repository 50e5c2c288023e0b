//! Publishes paths that other caches have, each after its references, by the rules of a push.

use std::collections::HashMap;
use std::sync::Arc;

use nix_derivation::StorePath;

use super::examine::Examiner;
use crate::base::clock::Moment;
use crate::base::error::Result;
use crate::format::narinfo::check_size;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::format::repointing::Claim;
use crate::push::decide::{Origin, Rules, Verdict};
use crate::push::send::NarOrigin;
use crate::push::{Outcome, Progress, Pusher};
use crate::session::Proof;

/// The number of paths that one path may bring along.
const MOST: usize = 100_000;

/// Where the NAR of a path comes from.
#[derive(Clone, Debug)]
enum From {
    Store(Arc<PathInfo>),
    Source(usize, Box<Claim>),
}

/// Publishes paths of other caches. What it has found out about a path, it remembers.
pub(super) struct Fetcher<'a> {
    pub(super) pusher: &'a Pusher,
    pub(super) examiner: Examiner<'a>,
    pub(super) progress: &'a Arc<dyn Progress>,
    /// The paths that are settled: why each cannot be had, or nothing if clients can take it.
    settled: HashMap<StorePath, Result<(), String>>,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(pusher: &'a Pusher, examiner: Examiner<'a>, progress: &'a Arc<dyn Progress>) -> Self {
        Self { pusher, examiner, progress, settled: HashMap::new() }
    }

    /// Publishes a path and those of its references that are missing. The error says why it cannot be had.
    pub(super) async fn fetch(
        &mut self,
        path: &StorePath,
        store: Option<Arc<PathInfo>>,
    ) -> Result<(), String> {
        let mut open: Vec<(StorePath, From)> = Vec::new();
        match self.find(path, store).await {
            Ok(Some(from)) => open.push((path.clone(), from)),
            Ok(None) => return Err("no trusted key has signed what other caches have".into()),
            Err(error) => return Err(error.to_string()),
        }
        let mut begun = 0;
        while let Some((path, from)) = open.last().cloned() {
            match self.missing_reference(info_of(&from)).await {
                Err(why) => return Err(self.fail(open, &why)),
                Ok(Some((reference, from))) => {
                    begun += 1;
                    // Only a hostile cache has paths that refer to each other.
                    if begun > MOST || open.iter().any(|(other, _)| *other == reference) {
                        return Err(self.fail(open, "it refers to too many missing paths"));
                    }
                    open.push((reference, from));
                }
                Ok(None) => {
                    if let Err(why) = self.publish(&from).await {
                        return Err(self.fail(open, &why));
                    }
                    self.settled.insert(path, Ok(()));
                    open.pop();
                }
            }
        }
        Ok(())
    }

    /// Settles the paths that wait for the last one, which cannot be had.
    fn fail(&mut self, open: Vec<(StorePath, From)>, why: &str) -> String {
        let mut reason = why.to_owned();
        for (place, (path, _)) in open.into_iter().enumerate().rev() {
            self.settled.insert(path.clone(), Err(reason.clone()));
            if place > 0 {
                reason = format!("it refers to `{}`: {reason}", path.to_basename());
            }
        }
        reason
    }

    /// A reference that clients cannot take yet, and where it can be had; `None` if clients can take them all.
    async fn missing_reference(&mut self, info: Arc<PathInfo>) -> Result<Option<(StorePath, From)>, String> {
        for reference in info.dependencies() {
            let named = |why: &str| format!("it refers to `{}`: {why}", reference.to_basename());
            match self.settled.get(&**reference) {
                Some(Ok(())) => continue,
                Some(Err(why)) => return Err(named(why)),
                None => {}
            }
            let at = Moment::now();
            let fault = self.pusher.publisher().examiner.fault_of(reference).await;
            let Some(fault) = fault.map_err(|error| named(&error.to_string()))? else {
                self.pusher.session().facts().record(reference.clone(), at, Proof::Foreign);
                self.settled.insert((**reference).clone(), Ok(()));
                continue;
            };
            match self.find(reference, None).await.map_err(|error| named(&error.to_string()))? {
                Some(from) if self.is_upstreams(&from, reference).await => {
                    self.settled.insert((**reference).clone(), Ok(()));
                }
                Some(from) => return Ok(Some(((**reference).clone(), from))),
                None => return Err(named(&fault)),
            }
        }
        Ok(None)
    }

    /// Whether clients get the path from upstream: the rules leave it out, and nothing in the bucket hides it.
    async fn is_upstreams(&self, from: &From, path: &StorePath) -> bool {
        let verdict = self.verdict(self.pusher.rules(), &info_of(from));
        verdict == Verdict::Upstream
            && matches!(self.pusher.session().bucket().head(&object_keys::narinfo(path)).await, Ok(None))
    }

    fn verdict(&self, rules: &Rules, info: &PathInfo) -> Verdict {
        let origin = if info.ultimate { Origin::Built } else { Origin::Unknown };
        rules.judge(self.examiner.store_dir, info, origin, &[])
    }

    /// Where a path can be had.
    async fn find(&self, path: &StorePath, store: Option<Arc<PathInfo>>) -> Result<Option<From>> {
        if let Some(info) = store {
            return Ok(Some(From::Store(info)));
        }
        for (number, source) in self.examiner.sources.iter().enumerate() {
            let claim = source.claim(self.examiner.store_dir, self.examiner.believed, path.digest()).await?;
            if let Some(claim) = claim.filter(|claim| claim.is_vouched && *claim.info.path == *path) {
                return Ok(Some(From::Source(number, Box::new(claim))));
            }
        }
        Ok(None)
    }

    /// Sends the NAR of a path, and publishes its narinfo.
    async fn publish(&self, from: &From) -> Result<(), String> {
        let info = info_of(from);
        // A narinfo that no client can use stands in the way of upstream's, so that the path is pushed in any case.
        let rules = Rules { push_upstream: true, ..self.pusher.rules().clone() };
        match self.verdict(&rules, &info) {
            Verdict::Push | Verdict::PushByClosure => {}
            Verdict::Excluded(reason) => return Err(reason),
            Verdict::Upstream | Verdict::Refused => {
                return Err(
                    "no key of `trusted-keys` has signed what is there, so that larder does not sign it"
                        .into(),
                );
            }
        }
        let publisher = self.pusher.publisher();
        let published = async {
            check_size(self.examiner.store_dir, &info, publisher.examiner.judge.keys)?;
            let sender = self.pusher.sender();
            let sent = match from {
                From::Store(_) => sender.send_anew(&info, NarOrigin::Store, self.progress).await?,
                From::Source(number, claim) => {
                    self.examiner.sources[*number].send(claim, sender, &info, self.progress).await?
                }
            };
            publisher.publish(&info, &sent).await
        };
        let outcome: Outcome = published.await.map_err(|error| error.to_string())?;
        if !outcome.is_available() {
            return Err(outcome.reason().unwrap_or_else(|| outcome.kind().word().to_owned()));
        }
        self.pusher.session().facts().record(info.path.clone(), Moment::now(), Proof::Complete);
        Ok(())
    }
}

fn info_of(from: &From) -> Arc<PathInfo> {
    match from {
        From::Store(info) => info.clone(),
        From::Source(_, claim) => Arc::new(claim.info.clone()),
    }
}
