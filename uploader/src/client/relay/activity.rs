//! Whether a relay has anything to do.

use crate::base::lock::lock;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How many requests are being answered, and since when that is so.
#[derive(Debug)]
pub(super) struct Activity(Mutex<(usize, Instant)>);

/// A request that is being answered, until it is dropped.
pub(super) struct Running(Arc<Activity>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }
}

impl Activity {
    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        self.change(|running| running + 1);
        Running(self.clone())
    }

    /// Resolves when nothing has been running for as long as `span`; without one, never.
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

    fn change(&self, to: impl FnOnce(usize) -> usize) {
        let mut state = lock(&self.0);
        *state = (to(state.0), Instant::now());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(|running| running.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_relay_is_idle_when_its_last_answer_has_been_gone_for_a_while() {
        const SPAN: Duration = Duration::from_millis(50);
        let begun = Instant::now();
        let activity = Arc::new(Activity::default());
        let soon = |span| tokio::time::timeout(Duration::from_secs(60), activity.idle(span));
        let never = |span| tokio::time::timeout(4 * SPAN, activity.idle(span));
        soon(Some(SPAN)).await.expect("nothing has come");
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
