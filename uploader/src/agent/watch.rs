//! Wakes the event loop when a job arrives.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

/// How often the queue is read even without a notification: some file systems have none, and events are lost.
pub(super) const POLL: Duration = Duration::from_secs(if cfg!(target_os = "linux") { 30 } else { 3 });

/// Notifies whenever a file arrives in `directory`, for as long as the process lives.
pub(super) fn watch(directory: &Path) -> Arc<Notify> {
    let news = Arc::new(Notify::new());
    #[cfg(target_os = "linux")]
    {
        use inotify::{Inotify, WatchMask};
        let started = Inotify::init().and_then(|inotify| {
            inotify.watches().add(directory, WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE)?;
            Ok(inotify)
        });
        // Without inotify, polling finds the jobs.
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
    async fn a_new_file_notifies() {
        let dir = tempfile::tempdir().unwrap();
        let news = watch(dir.path());
        std::fs::write(dir.path().join("x"), "").unwrap();
        tokio::time::timeout(Duration::from_secs(60), news.notified()).await.unwrap();
    }
}
