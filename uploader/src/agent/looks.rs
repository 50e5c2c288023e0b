//! When the agent looks for builds that failed: when it begins, every ten minutes, when somebody asks it to try everything, and
//! before it ends.

use std::time::{Duration, Instant};

use super::failed_builds::{Found, SETTLED};
use super::queue_thread::QueueThread;
use crate::base::error::{Area, Error, Result};
use crate::push::{Progress, Pusher};

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(600);
/// The longest time that the logs of one look may take. Other work of the agent waits meanwhile.
const LONGEST: Duration = Duration::from_secs(60);

/// When the agent looks.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// The time of the next look; `None` if the logs of failed builds are not wanted.
    next: Option<Instant>,
}

impl Looks {
    /// The first look is due at once, if there are any.
    pub(super) fn new(is_on: bool) -> Self {
        Self { next: is_on.then(Instant::now) }
    }

    /// Makes the next look due.
    pub(super) fn hurry(&mut self) {
        self.next = self.next.map(|_| Instant::now());
    }

    /// Whether a look is due. The last one always is.
    pub(super) fn is_due(&self, is_last: bool) -> bool {
        self.next.is_some_and(|next| is_last || next <= Instant::now())
    }

    /// Looks. The last look waits until the newest logs are old enough. The inner error is that of the look.
    ///
    /// # Errors
    /// The queue's thread has died.
    pub(super) async fn find(&mut self, queue: &QueueThread, is_last: bool) -> Result<Result<Found>> {
        self.next = Some(Instant::now() + EVERY);
        let found = queue.ask(|keeper| keeper.failed_builds()).await?;
        if !is_last || !found.as_ref().is_ok_and(|found| found.more) {
            return Ok(found);
        }
        tokio::time::sleep(SETTLED + Duration::from_secs(1)).await;
        queue.ask(|keeper| keeper.failed_builds()).await
    }

    /// Publishes the logs, and notes that.
    ///
    /// # Errors
    /// The bucket fails, or does not answer in time. The next look finds the same logs again.
    pub(super) async fn publish(
        &self,
        queue: &QueueThread,
        pusher: &Pusher,
        found: Found,
        progress: &dyn Progress,
    ) -> Result<()> {
        let publish = pusher.publish_failed_logs(found.builds.clone(), progress);
        let late = |_| {
            Error::transient(Area::Bucket, "cannot write all logs")
                .because(format!("the bucket did not take them within {} s", LONGEST.as_secs()))
        };
        tokio::time::timeout(LONGEST, publish).await.map_err(late)??;
        self.note(queue, found)
    }

    /// Notes that nothing is left to do about what was found.
    ///
    /// # Errors
    /// The queue's thread has died.
    pub(super) fn note(&self, queue: &QueueThread, found: Found) -> Result<()> {
        queue.order(move |keeper| keeper.note_look(found.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_at_once_when_somebody_asks_and_at_the_end() {
        let off = Looks::new(false);
        assert!(!off.is_due(false) && !off.is_due(true));
        let mut looks = Looks::new(true);
        assert!(looks.is_due(false));
        looks.next = Some(Instant::now() + EVERY);
        assert!(!looks.is_due(false) && looks.is_due(true));
        looks.hurry();
        assert!(looks.is_due(false));
    }
}
