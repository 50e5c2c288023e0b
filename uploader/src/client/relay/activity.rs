//! Counts the requests that a relay is answering.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::lock::lock;

/// The number of running requests, and the time of its last change.
#[derive(Debug)]
pub(super) struct Activity(Mutex<(usize, Instant)>);

/// A request that counts as running until this value is dropped.
pub(super) struct RunningRequest(Arc<Activity>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }
}

impl Activity {
    /// Counts a request as running.
    pub(super) fn begin(self: &Arc<Self>) -> RunningRequest {
        self.change(|running| running + 1);
        RunningRequest(self.clone())
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

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.change(|running| running.saturating_sub(1));
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
        let running = activity.begin();
        assert!(never(Some(SPAN)).await.is_err(), "a request is running");
        let begun = Instant::now();
        drop(running);
        soon(Some(SPAN)).await.expect("the request has ended");
        assert!(begun.elapsed() >= SPAN);
    }
}
