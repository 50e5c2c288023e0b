//! Brings the NAR of a path into the bucket: by sharing an object of equal contents, by waiting for another writer that
//! is sending it, or by sending it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OnceCell, OwnedSemaphorePermit};

use super::budget::Budget;
use super::compress::Settings;
use super::effort_control::EffortControl;
use super::lanes::Lanes;
use super::part_sink::PART;
use super::produce::{NarOrigin, Producer};
use super::request_limit::RequestLimit;
use super::upload::{Uploaded, Uploader};
use crate::base::clock::Moment;
use crate::base::error::Result;
use crate::base::lock::lock;
use crate::format::narinfo::NarObject;
use crate::format::object_keys;
use crate::format::path_info::{PathInfo, is_small};
use crate::push::progress::Progress;
use crate::session::{FACT_AGE, Patience, Session};
use crate::store::StoreLocation;
use crate::survey::{NarScan, Verifier, find_nar};

/// Memory for the compressed parts that are being sent, over all uploads, in bytes. In addition, each job fills a part.
/// A network of 1 Gbit/s carries this amount in a quarter of a second. Requests up to this duration do not slow an
/// upload.
const SENDING: u64 = 32 << 20;

/// A NAR that this session is sending or has sent, and the time since which its object is known to be in the bucket.
type Remembered = (Moment, Arc<OnceCell<Uploaded>>);

/// Sends the NARs of a session.
#[derive(Debug)]
pub struct NarSender {
    uploader: Uploader,
    lanes: Lanes,
    /// Verifies NARs that others have put into the bucket.
    verifier: Arc<Verifier>,
    /// The NARs of this session, by NarHash, so that equal contents are sent once.
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
}

impl NarSender {
    /// A sender for a session. `jobs` is the number of large NARs that are compressed at the same time; with
    /// `listings`, a listing is made of each NAR that is sent.
    pub fn new(
        session: &Session,
        store: Arc<StoreLocation>,
        compression: Settings,
        jobs: usize,
        listings: bool,
        verifier: Arc<Verifier>,
    ) -> Self {
        let lanes = Lanes::new(jobs);
        let budget = Budget::new(PART * lanes.jobs as u64, SENDING);
        let effort_control = EffortControl::new(compression, lanes.compressors(), lanes.jobs, budget.clone());
        let producer = Producer {
            store,
            effort_control: Arc::new(effort_control),
            contexts: Arc::default(),
            budget,
            listing: listings,
        };
        let (bucket, writer) = (session.bucket().clone(), session.id().to_owned());
        let uploader = Uploader { bucket, writer, producer };
        Self { uploader, lanes, verifier, remembered: Mutex::default() }
    }

    /// Forgets the NARs whose objects were last known to be in the bucket too long ago.
    pub fn forget_outdated(&self) {
        lock(&self.remembered).retain(|_, (since, _)| since.elapsed() < FACT_AGE);
    }

    /// Brings the NAR of a path into the bucket. `scan` holds the NARs that a scan has found in the bucket.
    ///
    /// # Errors
    /// Of the store, when the path cannot be read or is corrupt; of the bucket.
    pub async fn send(
        &self,
        session: &Session,
        requests: &RequestLimit,
        info: &Arc<PathInfo>,
        scan: &NarScan,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        let hash = info.nar_hash;
        let new = || (Moment::now(), Arc::default());
        let cell = {
            let mut remembered = lock(&self.remembered);
            let (_, cell) = remembered.entry(hash).or_insert_with(new);
            // A NAR that a collection is removing, or may have removed, counts as absent.
            let is_lost = |sent: &Uploaded| {
                !session.nar_counts(&sent.object.key) || session.forgot_nar(&sent.object.key, sent.at)
            };
            if cell.get().is_some_and(is_lost) {
                *cell = Arc::default();
            }
            cell.clone()
        };
        let mut own = false;
        let uploaded = cell
            .get_or_try_init(|| async {
                own = true;
                if let Some(found) = scan.get(info).filter(|(object, _)| session.nar_counts(&object.key))
                    && let Some(shared) = self.share(session, info, found, progress).await?
                {
                    return Ok(shared);
                }
                match is_small(info.nar_size) {
                    true => self.send_small(requests, info, progress).await,
                    false => self.send_large(session, requests, info, progress).await,
                }
            })
            .await;
        let mut uploaded = uploaded?.clone();
        if own {
            // The listing is not kept: larder can read it from the store again, and it would take memory.
            let remembered = Uploaded { listing: None, ..uploaded.clone() };
            let cell = OnceCell::new_with(Some(remembered));
            lock(&self.remembered).insert(hash, (uploaded.at, Arc::new(cell)));
        } else {
            uploaded.sent = 0;
        }
        Ok(uploaded)
    }

    /// Sends a small NAR without asking whether the bucket has an equal one. The question would cost as much as the
    /// upload, and far more on a server that looks through all NARs to answer.
    async fn send_small(
        &self,
        requests: &RequestLimit,
        info: &Arc<PathInfo>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        let request = requests.slot().await;
        let reader = self.lanes.reader().await?;
        let uploaded = self.upload(info, reader, progress).await?;
        request.answered();
        Ok(uploaded)
    }

    /// Sends a large NAR, unless another writer has sent it or sends it in time.
    async fn send_large(
        &self,
        session: &Session,
        requests: &RequestLimit,
        info: &Arc<PathInfo>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        let (hash, reservations) = (&info.nar_hash, session.reservations());
        let mut patience = Patience::new(info.nar_size);
        let mut may_share = true;
        loop {
            let next = self.lanes.next().await?;
            let (reserved, found) = {
                let _slot = requests.slot().await;
                let reserved = reservations.take(hash).await;
                // Another writer may have sent the NAR since the scan. The question costs little beside a large NAR.
                let found = match may_share {
                    true => find_nar(&**session.bucket(), info)
                        .await
                        .map(|found| found.filter(|(object, _)| session.nar_counts(&object.key))),
                    false => Ok(None),
                };
                (reserved, found)
            };
            if let Some(found) = found.transpose() {
                reservations.give_back(reserved).await;
                drop(next);
                if let Some(shared) = self.share(session, info, found?, progress).await? {
                    return Ok(shared);
                }
                may_share = false;
                continue;
            }
            let Ok(reserved) = patience.accept(reserved) else {
                drop(next);
                patience.pause().await;
                continue;
            };
            let compressor = self.lanes.compressor().await?;
            // The rest of this upload delays no other NAR's question.
            drop(next);
            let sent = self.upload(info, compressor, progress).await;
            reservations.give_back(reserved).await;
            return sent;
        }
    }

    /// Sends a NAR under a new key, whatever the bucket has.
    ///
    /// # Errors
    /// When the bytes of `origin` are not the NAR of the path; of the bucket.
    pub async fn send_anew(
        &self,
        info: &Arc<PathInfo>,
        origin: NarOrigin,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        let place = match is_small(info.nar_size) {
            true => self.lanes.reader().await?,
            false => self.lanes.compressor().await?,
        };
        progress.started(&info.path, info.nar_size);
        self.uploader.upload(info, origin, place, progress).await
    }

    async fn upload(
        &self,
        info: &Arc<PathInfo>,
        place: OwnedSemaphorePermit,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        progress.started(&info.path, info.nar_size);
        self.uploader.upload(info, NarOrigin::Store, place, progress).await
    }

    /// Shares an object that a listing shows under the hash of the NAR. The first time that this session relies on the
    /// object, its contents are checked, unless a trusted writer has written it. The result is `None` if the object is
    /// not that NAR.
    async fn share(
        &self,
        session: &Session,
        info: &Arc<PathInfo>,
        (object, at): (NarObject, Moment),
        progress: &Arc<dyn Progress>,
    ) -> Result<Option<Uploaded>> {
        let shared = |object| Some(Uploaded { object, sent: 0, listing: None, at });
        // A NAR that seems to be of this session, and that the session does not remember, can be anybody's.
        let nonce = object_keys::nar_nonce(&object.key)
            .filter(|nonce| !session.id().starts_with(object_keys::writer(nonce)));
        let is_sound = self.verifier.believes(&object.key)
            || match nonce {
                Some(nonce) => session.writer_is_trusted(nonce).await,
                None => false,
            };
        if is_sound {
            return Ok(shared(object));
        }
        let _place = match is_small(info.nar_size) {
            true => self.lanes.reader().await?,
            false => self.lanes.compressor().await?,
        };
        let key = object.key.clone();
        let fault = match self.verifier.check(&**session.bucket(), info, object).await {
            Ok(Some(object)) => return Ok(shared(object)),
            Ok(None) => "it has other contents".to_owned(),
            Err(error) => error.to_string(),
        };
        progress
            .remark(&format!("`{key}` in the bucket is not used, and its contents are sent again: {fault}"));
        Ok(None)
    }
}
