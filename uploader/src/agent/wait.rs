//! Waking up when there is something new, and how long to wait after failures.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand_core::{OsRng, RngCore};
use tokio::sync::Notify;

/// Looked at this often even if nobody says that there is news: file systems without notifications, lost events.
pub(super) const POLL: Duration = Duration::from_secs(if cfg!(target_os = "linux") { 30 } else { 3 });

/// Tells whenever something arrives in `directory`, for as long as the process lives.
pub(super) fn watch(directory: &Path) -> Arc<Notify> {
    let news = Arc::new(Notify::new());
    #[cfg(target_os = "linux")]
    {
        use inotify::{Inotify, WatchMask};
        let started = Inotify::init().and_then(|inotify| {
            inotify.watches().add(directory, WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE)?;
            Ok(inotify)
        });
        // Without it, polling serves.
        if let Ok(mut inotify) = started {
            let news = news.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while inotify.read_events_blocking(&mut buffer).is_ok() {
                    news.notify_one();
                }
            });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = directory;
    news
}

/// A wait after the `failures`th failure in a row: doubling from `first` up to `most`, a fifth more or less so that
/// many machines do not come back at once.
pub(super) fn backoff(failures: u32, first: Duration, most: Duration) -> Duration {
    let doubled =
        first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(most);
    let part = f64::from(OsRng.next_u32()) / f64::from(u32::MAX);
    doubled.mul_f64(0.8 + 0.4 * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        let (first, most) = (Duration::from_secs(5), Duration::from_secs(300));
        assert!(backoff(1, first, most) <= Duration::from_secs(6));
        assert!(backoff(3, first, most) >= Duration::from_secs(16));
        for failures in [10, 32, 1000, u32::MAX] {
            assert!(backoff(failures, first, most) <= Duration::from_secs(360));
        }
    }

    #[tokio::test]
    async fn news_wakes() {
        let dir = tempfile::tempdir().unwrap();
        let news = watch(dir.path());
        std::fs::write(dir.path().join("x"), "").unwrap();
        tokio::time::timeout(Duration::from_secs(60), news.notified()).await.unwrap();
    }
}
