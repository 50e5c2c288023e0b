//! Carries NARs into the bucket, and publishes narinfos in order.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use larder_hook::fault::point;

use super::order::Decided;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{ContentType, Copied};
use crate::format::narinfo::{NarObject, check_size};
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::format::repointing::Claim;
use crate::push::publish::Order;
use crate::push::send::Uploaded;
use crate::push::{Outcome, Progress, Pusher};
use crate::session::Proof;
use crate::upkeep::repair::Source;

/// The number of NARs that are carried at the same time.
const CONCURRENT: usize = 12;

/// How NARs come into the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// They are downloaded, hashed, compressed by our settings and uploaded.
    Through,
    /// The server copies the objects. Where it cannot, they are carried through.
    Within,
}

/// Carries paths.
pub struct Carrier<'a> {
    /// The session with the bucket, the rules and the keys.
    pub pusher: &'a Pusher,
    /// The other cache.
    pub source: &'a Source,
    /// How NARs come into the bucket.
    pub carry: Carry,
    /// The names of keys whose signatures are not taken over.
    pub drop: &'a [String],
    /// Is told about NARs that are sent.
    pub progress: Arc<dyn Progress>,
}

/// What a task of a transfer has done.
enum Event {
    Carried(usize, Result<Uploaded>),
    Published(usize, Result<Outcome>),
}

impl Carrier<'_> {
    /// Carries what was decided. Each outcome goes to `report` as soon as it is known. A path whose reference fails is not
    /// published.
    pub async fn carry(&self, decided: &Decided, mut report: impl FnMut(&PathInfo, &Outcome)) {
        let mut order = Order::new(&decided.references);
        let mut uploaded: Vec<Option<Uploaded>> = decided.todo.iter().map(|_| None).collect();
        let mut is_settled = vec![false; decided.todo.len()];
        let mut waiting: Vec<usize> = (0..decided.todo.len()).rev().collect();
        let mut running: FuturesUnordered<BoxFuture<'_, Event>> = FuturesUnordered::new();
        let mut carried = 0;
        loop {
            while carried < CONCURRENT
                && let Some(place) = waiting.pop()
            {
                if is_settled[place] {
                    continue;
                }
                let (claim, carries) = &decided.todo[place];
                if *carries {
                    carried += 1;
                    running.push(Box::pin(async move { Event::Carried(place, self.bring(claim).await) }));
                } else if order.uploaded(place) {
                    running.push(self.publish(decided, place, None));
                }
            }
            let Some(event) = running.next().await else { return };
            let (place, outcome) = match event {
                Event::Carried(place, Ok(sent)) => {
                    carried -= 1;
                    uploaded[place] = Some(sent).filter(|_| !is_settled[place]);
                    if order.uploaded(place) {
                        running.push(self.publish(decided, place, uploaded[place].take()));
                    }
                    continue;
                }
                Event::Carried(place, Err(error)) => {
                    carried -= 1;
                    (place, Outcome::Failed(error))
                }
                Event::Published(place, Ok(outcome)) => (place, outcome),
                Event::Published(place, Err(error)) => (place, Outcome::Failed(error)),
            };
            // A path that was blocked while its NAR was carried has its outcome.
            if std::mem::replace(&mut is_settled[place], true) {
                continue;
            }
            let info = &decided.todo[place].0.info;
            report(info, &outcome);
            if outcome.is_available() {
                self.pusher.session().facts().record(info.path.clone(), Moment::now(), proof(&outcome));
                for next in order.published(place) {
                    running.push(self.publish(decided, next, uploaded[next].take()));
                }
                continue;
            }
            for blocked in order.failed(place) {
                is_settled[blocked] = true;
                report(&decided.todo[blocked].0.info, &Outcome::Blocked { by: info.path.clone() });
            }
        }
    }

    fn publish<'t>(
        &'t self,
        decided: &'t Decided,
        place: usize,
        nar: Option<Uploaded>,
    ) -> BoxFuture<'t, Event> {
        Box::pin(async move {
            let claim = &decided.todo[place].0;
            let info = self.signed_by_others(claim);
            let publisher = self.pusher.publisher();
            let published = match nar {
                Some(nar) => publisher.publish(&info, &nar).await,
                None => publisher.sign(&info).await,
            };
            point("transfer: published");
            Event::Published(place, published)
        })
    }

    /// The path info without the signatures that are not taken over.
    fn signed_by_others(&self, claim: &Claim) -> PathInfo {
        let mut info = claim.info.clone();
        let kept = info.signatures.iter().filter(|signature| !self.is_dropped(signature));
        info.signatures = kept.cloned().collect();
        info
    }

    /// Whether a signature is one of those that are not taken over.
    pub(super) fn is_dropped(&self, signature: &str) -> bool {
        signature.split_once(':').is_some_and(|(name, _)| self.drop.iter().any(|dropped| dropped == name))
    }

    /// Brings the NAR of a path into the bucket.
    async fn bring(&self, claim: &Claim) -> Result<Uploaded> {
        let info = Arc::new(claim.info.clone());
        let judge = self.pusher.publisher().examiner.judge;
        check_size(judge.store_dir, &info, judge.keys)?;
        if self.carry == Carry::Within
            && let Some(copied) = self.copy(claim).await?
        {
            return Ok(copied);
        }
        self.source.send(claim, self.pusher.sender(), &info, &self.progress).await
    }

    /// Lets the server copy the NAR. `None` where it cannot.
    async fn copy(&self, claim: &Claim) -> Result<Option<Uploaded>> {
        let (Source::Bucket(source), Some(nar)) = (self.source, &claim.nar) else { return Ok(None) };
        let Some(compression) = nar.compression else { return Ok(None) };
        let gone = || {
            Error::permanent(Area::Bucket, format!("cannot copy `{}`", nar.key))
                .because("it is gone, or has another size than its narinfo says")
        };
        let meta = source.head(&nar.key).await?.filter(|meta| nar.fits(meta.size)).ok_or_else(gone)?;
        let Some(origin) = source.origin(&meta) else { return Ok(None) };
        let session = self.pusher.session();
        let key = object_keys::new_nar(&claim.info.nar_hash, compression, session.id());
        let at = Moment::now();
        match session.bucket().copy(&origin, &key, ContentType::Nar).await? {
            Copied::Impossible => Ok(None),
            Copied::Gone => Err(gone()),
            Copied::Done => {
                let object =
                    NarObject { key, compression, file_hash: nar.file_hash, file_size: Some(meta.size) };
                Ok(Some(Uploaded { object, sent: 0, listing: None, at }))
            }
        }
    }
}

/// What the outcome proves of a path that clients can take.
fn proof(outcome: &Outcome) -> Proof {
    match outcome {
        Outcome::Differs { .. } => Proof::Foreign,
        _ => Proof::Complete,
    }
}
