//! Waking up when a job arrives.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_wakes() {
        let dir = tempfile::tempdir().unwrap();
        let news = watch(dir.path());
        std::fs::write(dir.path().join("x"), "").unwrap();
        tokio::time::timeout(Duration::from_secs(60), news.notified()).await.unwrap();
    }
}
