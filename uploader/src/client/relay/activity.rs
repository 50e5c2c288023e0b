//! Counts the requests that a relay is answering, in total and for each connection.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::lock::lock;

/// The number of running requests, and the time of the last change or progress.
#[derive(Debug)]
pub(super) struct Activity(Mutex<(usize, Instant)>);

/// A request that counts as running, on its connection and in total, until this value is dropped.
pub(super) struct RunningRequest([Arc<Activity>; 2]);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }
}

impl Activity {
    /// Counts a request as running.
    pub(super) fn begin(counts: [Arc<Self>; 2]) -> RunningRequest {
        counts.iter().for_each(|count| count.change(|running| running + 1));
        RunningRequest(counts)
    }

    /// The time since when no request has been running; `None` while a request is running.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let (running, since) = *lock(&self.0);
        (running == 0).then_some(since)
    }

    /// Resolves when nothing has changed for `span`: no request began, made progress, or ended.
    pub(super) async fn stalled(&self, span: Duration) {
        loop {
            let since = lock(&self.0).1;
            match span.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None => return,
            }
        }
    }

    /// Resolves when no request has been running for `span`. Without a span this never resolves.
    pub(super) async fn idle(&self, span: Option<Duration>) {
        let Some(span) = span else { return std::future::pending().await };
        loop {
            let (running, since) = *lock(&self.0);
            match span.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None if running > 0 => tokio::time::sleep(span).await,
                None => return,
            }
        }
    }

    fn change(&self, update: impl FnOnce(usize) -> usize) {
        let mut state = lock(&self.0);
        *state = (update(state.0), Instant::now());
    }
}

impl RunningRequest {
    /// Records that the client has taken a part of the answer.
    pub(super) fn progress(&self) {
        self.0.iter().for_each(|count| count.change(|running| running));
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.iter().for_each(|count| count.change(|running| running.saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_relay_is_idle_some_time_after_its_last_answer() {
        const SPAN: Duration = Duration::from_millis(50);
        let begun = Instant::now();
        let activity = Arc::new(Activity::default());
        let soon = |span| tokio::time::timeout(Duration::from_secs(60), activity.idle(span));
        let never = |span| tokio::time::timeout(4 * SPAN, activity.idle(span));
        soon(Some(SPAN)).await.expect("no request has come");
        assert!(begun.elapsed() >= SPAN);
        assert!(never(None).await.is_err());
        let connection = Arc::<Activity>::default();
        let running = Activity::begin([activity.clone(), connection.clone()]);
        assert!(connection.idle_since().is_none());
        assert!(never(Some(SPAN)).await.is_err(), "a request is running");
        let begun = Instant::now();
        drop(running);
        soon(Some(SPAN)).await.expect("the request has ended");
        assert!(begun.elapsed() >= SPAN && connection.idle_since().is_some());
    }

    #[tokio::test]
    async fn a_request_without_progress_is_stalled() {
        const SPAN: Duration = Duration::from_millis(50);
        let activity = Arc::new(Activity::default());
        let running = Activity::begin([activity.clone(), Arc::default()]);
        tokio::time::sleep(SPAN).await;
        running.progress();
        let begun = Instant::now();
        tokio::time::timeout(Duration::from_secs(60), activity.stalled(SPAN)).await.expect("no progress");
        assert!(begun.elapsed() >= SPAN, "the progress was not counted");
    }
}
