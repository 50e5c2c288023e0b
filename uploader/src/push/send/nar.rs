//! Getting the NAR of a path into the bucket: by finding one of equal contents there, by waiting for another writer that
//! is sending it, or by sending it.

use std::sync::Arc;

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::upload::Uploaded;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::format::narinfo::NarObject;
use crate::format::path_info::PathInfo;
use crate::push::decide::plan::Todo;
use crate::push::progress::Progress;
use crate::push::pusher::Pusher;
use crate::session::reservation::Patience;
use crate::survey::presence::{Nars, find_nar};

/// Below this size of a NAR, latency costs more than bytes: many are on their way at the same time.
const SMALL: u64 = 1 << 20;
/// How many of them are read at the same time; each takes a thread, and a disk is waited for.
const READERS: usize = 16;
/// Each large one that is read takes a thread, and the runtime has 512, which others need, too.
pub(crate) const MOST_LARGE: usize = 64;
/// Large ones that are asked for while others are compressed, so that the way to the server is no delay.
const AHEAD: usize = 2;

/// A NAR that is being sent or was, and since when.
pub(crate) type Remembered = (Moment, Arc<OnceCell<Uploaded>>);

/// What limits how many NARs are worked on at the same time.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// Large ones that are next.
    large: Semaphore,
    /// Large ones that are being compressed.
    pub(crate) turns: Arc<Semaphore>,
    /// Small ones that are being read.
    readers: Arc<Semaphore>,
}

impl Lanes {
    /// For so many large ones that are compressed at the same time.
    pub(crate) fn new(jobs: usize) -> Self {
        Self {
            large: Semaphore::new(jobs + AHEAD),
            turns: Arc::new(Semaphore::new(jobs)),
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }
}

impl Pusher {
    /// Gets the NAR of a path into the bucket, by finding one of equal contents or by sending it.
    pub(crate) async fn nar(
        &self,
        todo: &Todo,
        nars: &Nars,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        let hash = todo.info.nar_hash;
        let cell = self.remembered().entry(hash).or_insert_with(|| (Moment::now(), Arc::default())).1.clone();
        let mut own = false;
        let uploaded = cell
            .get_or_try_init(|| async {
                own = true;
                if let Some(found) = nars.listed(&hash) {
                    return Ok(shared(found));
                }
                match is_small(&todo.info) {
                    true => self.small_nar(todo, progress).await,
                    false => self.large_nar(todo, progress).await,
                }
            })
            .await;
        let mut uploaded = uploaded?.clone();
        if own {
            // Listings are not worth the memory.
            let remembered = Uploaded { listing: None, ..uploaded.clone() };
            self.remembered().insert(hash, (remembered.at, Arc::new(OnceCell::new_with(Some(remembered)))));
        } else {
            uploaded.sent = 0;
        }
        Ok(uploaded)
    }

    /// Sends a NAR without a question whether another path has brought the same: that would cost as much as sending it,
    /// and far more on a server that looks through all NARs to answer.
    async fn small_nar(&self, todo: &Todo, progress: &Arc<dyn Progress>) -> Result<Uploaded> {
        let request = self.flow.turn().await;
        let turn = self.turn(&self.lanes.readers).await?;
        let uploaded = self.send(todo, turn, progress).await?;
        request.answered();
        Ok(uploaded)
    }

    /// Sends a NAR unless another writer has sent it, or does so in time.
    async fn large_nar(&self, todo: &Todo, progress: &Arc<dyn Progress>) -> Result<Uploaded> {
        let hash = &todo.info.nar_hash;
        let mut patience = Patience::new(todo.info.nar_size);
        loop {
            let next = self.lanes.large.acquire().await;
            let reserved = {
                let _turn = self.flow.turn().await;
                let reserved = self.reservations.take(hash).await;
                // It is worth a question whether another writer has sent it since the listing.
                let found = find_nar(&*self.bucket, hash).await;
                if let Some(found) = found.transpose() {
                    self.reservations.give_back(reserved).await;
                    return found.map(shared);
                }
                reserved
            };
            let Ok(reserved) = patience.accept(reserved) else {
                drop(next);
                patience.pause().await;
                continue;
            };
            let turn = self.turn(&self.lanes.turns).await?;
            // What is left to be sent keeps nobody from being next.
            drop(next);
            let sent = self.send(todo, turn, progress).await;
            self.reservations.give_back(reserved).await;
            return sent;
        }
    }

    async fn turn(&self, turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
        let turn = turns.clone().acquire_owned().await;
        turn.map_err(|_| over())
    }

    async fn send(
        &self,
        todo: &Todo,
        turn: OwnedSemaphorePermit,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        progress.started(&todo.info.path, todo.info.nar_size);
        self.uploader.upload(&todo.info, turn, progress).await
    }
}

/// A NAR of equal contents that is in the bucket.
fn shared((object, at): (NarObject, Moment)) -> Uploaded {
    Uploaded { object, sent: 0, listing: None, at }
}

/// Whether latency costs more for a NAR than its bytes.
pub(crate) fn is_small(info: &PathInfo) -> bool {
    info.nar_size < SMALL
}

fn over() -> Error {
    Error::permanent(Area::General, "the push is over")
}
