//! Build logs: `log/<derivation>` beside the outputs of a build. A push does not fail for the sake of a log. A log that could not
//! be written is tried again at the end of the push, and by the later pushes of the session.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use nix_derivation::StorePath;
use tokio::sync::Semaphore;

use super::decide::{Request, Rules};
use super::outcome::{OutcomeKind, Report};
use super::progress::Progress;
use super::send::RequestLimit;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result, Retry};
use crate::base::lock::lock;
use crate::bucket::{Condition, Depth, Put};
use crate::format::build_logs::BuildLogs;
use crate::format::object_keys::{self, LOGS};
use crate::session::Session;
use crate::store::{BuildLog, Closure, LogText, StoreLocation, find_build_log};

/// The number of logs that are written at the same time, apart from the limit on requests.
const CONCURRENT: usize = 16;
/// A log with more text is written alone, so that the memory for logs is bounded.
const LARGE: u64 = 64 << 10;
/// From this number of logs on that may be there, the bucket is listed.
const MANY: usize = 64;

/// Which build logs a pusher publishes.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOptions {
    /// Of which builds.
    pub which: BuildLogs,
    /// The most text of a log, in bytes.
    pub most: u64,
}

/// A build that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedBuild {
    /// The derivation.
    pub derivation: StorePath,
    /// Its outputs by name, with their paths as far as they are known.
    pub outputs: BTreeMap<String, Option<StorePath>>,
}

impl FailedBuild {
    /// Whether the bucket may get the log: by the rules for names, as if the outputs were pushed, and by what somebody has
    /// removed for good. The log is kept out where every output would be.
    fn is_allowed(&self, rules: &Rules, removed: &BTreeSet<[u8; 20]>) -> bool {
        let plain = self.derivation.name().trim_end_matches(".drv");
        let name = |output: &String| match output.as_str() {
            "out" => plain.to_owned(),
            output => format!("{plain}-{output}"),
        };
        let is_removed = |path: &StorePath| removed.contains(path.digest());
        let is_kept_out = self.outputs.keys().all(|output| rules.exclude.is_match(name(output)));
        !is_kept_out && !is_removed(&self.derivation) && !self.outputs.values().flatten().any(is_removed)
    }
}

/// The derivations of those paths of a push that were built here.
pub(super) type Derivers = HashMap<Arc<StorePath>, Vec<StorePath>>;

/// A log that is to be written.
#[derive(Clone, Debug)]
struct Task {
    derivation: StorePath,
    /// An output that is in the bucket, or the derivation of a failed build.
    path: StorePath,
    /// Whether the log replaces one in the bucket: the bytes of the output are those of this build.
    replaces: bool,
}

/// A log as it was on disk.
type File = (PathBuf, Option<SystemTime>, u64);

/// Writes build logs within a session.
#[derive(Debug)]
pub(super) struct Logs {
    options: LogOptions,
    /// The logs that the session has written or found, as they were on disk.
    written: Mutex<HashMap<StorePath, File>>,
    /// The logs that could not be written.
    unsent: Mutex<BTreeMap<StorePath, Task>>,
    large: Semaphore,
    has_remarked: AtomicBool,
}

impl Logs {
    pub(super) fn new(options: LogOptions) -> Self {
        Self {
            options,
            written: Mutex::default(),
            unsent: Mutex::default(),
            large: Semaphore::new(1),
            has_remarked: AtomicBool::default(),
        }
    }

    /// The derivations of the paths of a closure that were built here; empty if their logs are not published.
    pub(super) fn derivers(&self, request: &Request, closure: &Closure) -> Derivers {
        let mut derivers = Derivers::new();
        if request.dry_run || !self.options.which.has_successful() {
            return derivers;
        }
        let told = request.roots.iter().filter(|root| root.built_here);
        let told: HashMap<&StorePath, Option<&StorePath>> =
            told.map(|root| (&*root.path, root.derivation.as_ref())).collect();
        for info in closure.infos.values() {
            let told = told.get(&*info.path);
            // A path that came from elsewhere may have the log of a build here that failed.
            if !info.ultimate && told.is_none() {
                continue;
            }
            let mut of: Vec<_> = info.deriver.iter().chain(told.copied().flatten()).cloned().collect();
            of.retain(StorePath::is_derivation);
            of.dedup();
            if !of.is_empty() {
                derivers.insert(info.path.clone(), of);
            }
        }
        derivers
    }

    /// Writes the logs of a path whose narinfo this session has just published.
    pub(super) async fn published(&self, to: Place<'_>, path: &StorePath, derivations: &[StorePath]) {
        for derivation in derivations {
            let task = Task { derivation: derivation.clone(), path: path.clone(), replaces: true };
            self.send(to, task, Moment::now(), false).await;
        }
    }

    /// Ends a push: writes the logs of those roots that were there before, where the bucket lacks them, and those that could not
    /// be written before. `since` is the moment since when the push knows what is there.
    pub(super) async fn finish(
        &self,
        to: Place<'_>,
        request: &Request,
        derivers: &Derivers,
        (report, since): (&Report, Moment),
    ) {
        let mut tasks = std::mem::take(&mut *lock(&self.unsent));
        let mut there = BTreeMap::new();
        for root in &request.roots {
            let kind = report.outcomes.get(&root.path).map(super::Outcome::kind);
            if matches!(kind, Some(OutcomeKind::Present | OutcomeKind::Signed)) {
                for derivation in derivers.get(&root.path).into_iter().flatten() {
                    let path = (*root.path).clone();
                    let task = Task { derivation: derivation.clone(), path, replaces: false };
                    there.insert(derivation.clone(), task);
                }
            }
        }
        match self.lacking(to, there).await {
            Ok(lacking) => lacking.into_iter().for_each(|task| {
                tasks.entry(task.derivation.clone()).or_insert(task);
            }),
            Err(error) => {
                to.progress.remark(&format!("cannot find out which build logs are missing: {error}"))
            }
        }
        stream::iter(tasks.into_values())
            .for_each_concurrent(CONCURRENT, |task| self.send(to, task, since, true))
            .await;
    }

    /// Writes the logs of builds that failed. What stands in the bucket gives way, unless an output of the derivation is there:
    /// then it is the log of a build that did not fail.
    ///
    /// # Errors
    /// When the bucket fails. The logs that were written stay.
    pub(super) async fn publish_failed(
        &self,
        to: Place<'_>,
        failed: Vec<FailedBuild>,
        rules: &Rules,
    ) -> Result<()> {
        if !self.options.which.has_failed() {
            return Ok(());
        }
        let removed = to.session.removed();
        let allowed = failed.into_iter().filter(|build| build.is_allowed(rules, &removed));
        let work = allowed.map(|build| async move {
            let since = Moment::now();
            for output in build.outputs.values().flatten() {
                if to.session.bucket().head(&object_keys::narinfo(output)).await?.is_some() {
                    return Ok(());
                }
            }
            let path = build.derivation.clone();
            self.try_send(to, &Task { derivation: build.derivation, path, replaces: true }, since).await
        });
        stream::iter(work).buffer_unordered(CONCURRENT).try_collect().await
    }

    /// The most text of a log of a pushed path, in bytes; `None` if such logs are not published.
    pub(super) fn most(&self) -> Option<u64> {
        Some(self.options.most).filter(|_| self.options.which.has_successful())
    }

    /// Writes a log that came from another cache, unless one stands in the bucket. Returns whether it was written.
    pub(super) async fn write(
        &self,
        session: &Session,
        (derivation, path): (&StorePath, &StorePath),
        text: Vec<u8>,
        since: Moment,
    ) -> Result<bool> {
        if session.bucket().head(&object_keys::log(derivation)).await?.is_some() {
            return Ok(false);
        }
        let put = session.put_log(derivation, text, path, if_absent(session), since).await?;
        Ok(put == Put::Written)
    }

    /// Of the tasks that replace nothing, those whose logs the store has and the bucket lacks.
    async fn lacking(&self, to: Place<'_>, mut tasks: BTreeMap<StorePath, Task>) -> Result<Vec<Task>> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let (store, known) = (to.store.clone(), lock(&self.written).clone());
        let find = move || {
            tasks.retain(|derivation, _| {
                let log = find_build_log(&store, derivation);
                let log = log.filter(|log| !log.is_silent());
                log.is_some_and(|log| known.get(derivation) != Some(&on_disk(&log)))
            });
            tasks
        };
        let mut tasks = tokio::task::spawn_blocking(find).await.map_err(died)?;
        let bucket = to.session.bucket();
        // A collection that is removing what stands there does not ask whether it is needed again.
        let stays = |derivation: &StorePath| to.session.nar_counts(&object_keys::log(derivation));
        if tasks.len() < MANY {
            let asks = tasks.into_values().map(|task| async move {
                let found = bucket.head(&object_keys::log(&task.derivation)).await?;
                let is_there = found.is_some() && stays(&task.derivation);
                Ok::<_, Error>(Some(task).filter(|_| !is_there))
            });
            let asked: Vec<_> = stream::iter(asks).buffer_unordered(CONCURRENT).try_collect().await?;
            return Ok(asked.into_iter().flatten().collect());
        }
        let mut next = None;
        loop {
            let page = bucket.list(LOGS, next.as_ref(), Depth::Flat).await?;
            for object in page.objects {
                let name = object.key.strip_prefix(LOGS).unwrap_or_default();
                let derivation = StorePath::from_basename(name.as_bytes()).ok();
                if let Some(derivation) = derivation.filter(stays) {
                    tasks.remove(&derivation);
                }
            }
            next = page.next;
            if next.is_none() {
                return Ok(tasks.into_values().collect());
            }
        }
    }

    /// Writes a log. A failure is noted for another attempt; the `last` attempt of a push makes a remark,
    /// and so does a permanent failure: one in a session.
    async fn send(&self, to: Place<'_>, task: Task, since: Moment, last: bool) {
        let Err(error) = self.try_send(to, &task, since).await else { return };
        let is_permanent = error.retry() == Retry::Permanent;
        // What keeps one log out often keeps all out.
        if (last || is_permanent) && !self.has_remarked.swap(true, Ordering::Relaxed) {
            let name = task.derivation.to_basename();
            to.progress.remark(&format!("cannot publish the build log of `{name}`: {error}"));
        }
        if !is_permanent {
            lock(&self.unsent).insert(task.derivation.clone(), task);
        }
    }

    async fn try_send(&self, to: Place<'_>, task: &Task, since: Moment) -> Result<()> {
        let (store, derivation) = (to.store.clone(), task.derivation.clone());
        let find = move || find_build_log(&store, &derivation).map(|log| (on_disk(&log), log));
        let Some((file, log)) = tokio::task::spawn_blocking(find).await.map_err(died)? else { return Ok(()) };
        if lock(&self.written).get(&task.derivation) == Some(&file) {
            return Ok(());
        }
        let mut slot = to.requests.slot().await;
        let mut text = read(&log, self.options.most.min(LARGE)).await?;
        let mut _alone = None;
        if text == LogText::TooLong && self.options.most > LARGE {
            drop(slot);
            // The semaphore is never closed.
            _alone = self.large.acquire().await.ok();
            slot = to.requests.slot().await;
            text = read(&log, self.options.most).await?;
        }
        match text {
            LogText::TooLong => to.progress.remark(&format!(
                "the build log of `{}` is above `max-log-size`, and is not published",
                task.derivation.to_basename()
            )),
            // A log without text tells nobody anything. One that is being written is published when it is whole.
            LogText::Unfinished => return Ok(()),
            LogText::Whole(text) if text.is_empty() => {}
            LogText::Whole(text) => {
                let condition = match task.replaces {
                    true => Condition::None,
                    false => if_absent(to.session),
                };
                to.session.put_log(&task.derivation, text, &task.path, condition, since).await?;
            }
        }
        drop(slot);
        lock(&self.written).insert(task.derivation.clone(), file);
        Ok(())
    }
}

/// Where logs come from and go.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) session: &'a Session,
    pub(super) store: &'a Arc<StoreLocation>,
    pub(super) requests: &'a RequestLimit,
    pub(super) progress: &'a dyn Progress,
}

/// The condition that keeps what stands there, as far as the server honours it.
fn if_absent(session: &Session) -> Condition {
    match session.has_conditional_writes() {
        true => Condition::IfAbsent,
        false => Condition::None,
    }
}

/// Reads a log. One that cannot be read does not get better by another attempt.
async fn read(log: &BuildLog, most: u64) -> Result<LogText> {
    let (log, path) = (log.clone(), log.path.display().to_string());
    let read = tokio::task::spawn_blocking(move || log.read(most)).await.map_err(died)?;
    read.map_err(|error| Error::permanent(Area::Store, format!("cannot read `{path}`")).because(error))
}

fn on_disk(log: &BuildLog) -> File {
    let found = log.path.metadata().ok();
    let modified = found.as_ref().and_then(|found| found.modified().ok());
    (log.path.clone(), modified, found.map_or(0, |found| found.len()))
}

fn died(error: tokio::task::JoinError) -> Error {
    Error::transient(Area::General, "the thread that reads build logs ended early").because(error)
}
