//! The limit of what the queued jobs keep from garbage collection: `max-pinned`.
//!
//! While the bucket is away, each build adds roots. Above the limit, the oldest jobs lose their roots and stay queued. A
//! path that is collected then counts as gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use larder_hook::queue::{Queue, gcroot};
use larder_hook::store_path::StorePath as QueuedPath;

use super::daemon_connection::DaemonConnection;
use super::inbox::Inbox;
use super::path_conversion::from_queued;
use crate::base::error::Result;
use crate::base::queue_error::in_queue;
use crate::store::StoreLocation;

/// How often the size is computed.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// The limit, and the sizes that are known.
#[derive(Debug)]
pub(super) struct Limit {
    /// The limit in bytes of NARs.
    bytes: u64,
    checked: Option<Instant>,
    sizes: BTreeMap<QueuedPath, u64>,
}

/// What was let go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released {
    /// The jobs.
    pub(super) jobs: usize,
    /// The paths that their roots kept.
    pub(super) paths: usize,
    /// What all jobs kept before, in bytes of NARs.
    pub(super) bytes: u64,
}

/// A job with roots.
struct PinningJob {
    id: String,
    paths: Vec<QueuedPath>,
    /// Whether a push works on it.
    is_being_pushed: bool,
}

impl Limit {
    /// A limit in bytes of NARs.
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, checked: None, sizes: BTreeMap::new() }
    }

    /// Removes the roots of the oldest jobs if all jobs together keep more than the limit; `None` if nothing is removed.
    ///
    /// # Errors
    /// The queue cannot be read or written. A daemon that does not answer is no error: the next call asks it again.
    pub(super) fn apply(
        &mut self,
        queue: &Queue,
        store: &StoreLocation,
        inbox: &Inbox,
        daemon: &mut DaemonConnection,
    ) -> Result<Option<Released>> {
        if self.checked.is_some_and(|checked| checked.elapsed() < CHECK_EVERY) {
            return Ok(None);
        }
        self.checked = Some(Instant::now());
        let mut rooted = queue.rooted().map_err(in_queue)?;
        let pinning = |(id, taken): (&String, &super::inbox::TakenJob)| {
            let (paths, is_being_pushed) = (rooted.remove(id)?, taken.is_being_pushed);
            Some(PinningJob { id: id.clone(), paths, is_being_pushed })
        };
        let jobs: Vec<_> = inbox.jobs().iter().filter_map(pinning).collect();
        if self.learn_sizes(&jobs, store, daemon).is_err() {
            return Ok(None);
        }
        let size = |path: &QueuedPath| self.sizes.get(path).copied().unwrap_or(0);
        let (bytes, oldest) = surplus(&jobs, self.bytes, &size);
        for job in &oldest {
            let links = inbox.jobs().get(&job.id).map_or(0, |taken| taken.job.roots);
            gcroot::release(queue.layout(), &job.id, links).map_err(in_queue)?;
        }
        let paths = oldest.iter().map(|job| job.paths.len()).sum();
        Ok((!oldest.is_empty()).then_some(Released { jobs: oldest.len(), paths, bytes }))
    }

    /// Asks the daemon for the sizes that are not known, and forgets the others. An invalid path has no size.
    fn learn_sizes(
        &mut self,
        jobs: &[PinningJob],
        store: &StoreLocation,
        daemon: &mut DaemonConnection,
    ) -> Result<()> {
        let mut known = std::mem::take(&mut self.sizes);
        let mut unknown = Vec::new();
        for path in jobs.iter().flat_map(|job| &job.paths) {
            match known.remove(path) {
                Some(size) => drop(self.sizes.insert(path.clone(), size)),
                None if self.sizes.contains_key(path) => {}
                None => unknown.extend(from_queued(store, path).map(|own| (path, own))),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let paths: Vec<_> = unknown.iter().map(|(_, path)| path.clone()).collect();
        let infos = daemon.get()?.path_infos(&paths)?;
        for ((path, _), info) in unknown.into_iter().zip(infos) {
            self.sizes.insert(path.clone(), info.map_or(0, |info| info.nar_size));
        }
        Ok(())
    }
}

/// What all jobs keep in bytes, and the oldest jobs without which the others keep at most `limit` bytes. `jobs` are in
/// the order of their age. A job that is being pushed keeps its roots.
fn surplus<'a>(
    jobs: &'a [PinningJob],
    limit: u64,
    size: &dyn Fn(&QueuedPath) -> u64,
) -> (u64, Vec<&'a PinningJob>) {
    // How many jobs keep a path.
    let mut keepers = BTreeMap::<&QueuedPath, usize>::new();
    jobs.iter().flat_map(|job| &job.paths).for_each(|path| *keepers.entry(path).or_default() += 1);
    let all = keepers.keys().map(|path| size(path)).sum();
    let (mut kept, mut oldest): (u64, _) = (all, Vec::new());
    for job in jobs.iter().filter(|job| !job.is_being_pushed) {
        if kept <= limit {
            break;
        }
        for path in &job.paths {
            let left = keepers.entry(path).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                kept -= size(path);
            }
        }
        oldest.push(job);
    }
    (all, oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, names: &[&str], is_being_pushed: bool) -> PinningJob {
        let path = |name: &&str| {
            let text = format!("/nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-{name}");
            QueuedPath::parse("/nix/store", &text).unwrap()
        };
        PinningJob { id: id.to_owned(), paths: names.iter().map(path).collect(), is_being_pushed }
    }

    #[test]
    fn the_oldest_jobs_are_let_go_until_the_rest_keeps_no_more_than_the_limit() {
        let jobs = [
            job("1", &["ten-a"], false),
            job("2", &["ten-b", "ten-c"], true),
            job("3", &["ten-c", "ten-d"], false),
            job("4", &["ten-c", "ten-e"], false),
        ];
        let size = |path: &QueuedPath| if path.name().starts_with("ten") { 10 } else { 0 };
        // Job 2 is being pushed, and keeps the path that it shares with others.
        for (limit, expected) in [(50, ""), (49, "1"), (40, "1"), (39, "13"), (29, "134"), (0, "134")] {
            let (all, oldest) = surplus(&jobs, limit, &size);
            let ids: String = oldest.iter().map(|job| job.id.as_str()).collect();
            assert_eq!((all, ids.as_str()), (50, expected), "with a limit of {limit}");
        }
    }
}
