//! What follows from a push's report for the queue: acknowledge, try again later, park.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use larder_hook::queue::{Attempts, Origin, Parked, Place, Queue, gcroot};
use larder_hook::store_path::StorePath as QueuedPath;
use larder_hook::time::now;

use super::inbox::{Inbox, from_queued, in_queue, to_queued};
use super::records::Summary;
use crate::base::backoff::{Backoff, Jitter};
use crate::base::error::{Area, Error, Result, Retry};
use crate::push::{Outcome, Report};
use crate::store::{Daemon, StoreLocation, StorePath};

const WAITS: Backoff =
    Backoff { first: Duration::from_secs(15), longest: Duration::from_secs(3600), jitter: Jitter::Fifth };
/// An error that nobody understands is not tried for ever.
const MOST_ATTEMPTS: u32 = 10;

/// What the report means for one path of a job.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It needs nothing more.
    Settled,
    /// It is tried again.
    Again(String),
    /// It waits for somebody's decision.
    Park { reason: String, blocked_by: Option<StorePath> },
}

/// An error that may speak of a bucket that cannot be used at all, rather than of single paths. If it does, no path's
/// attempts are counted, and the whole agent waits; whether it does, the bucket itself is asked.
pub(super) fn suspicion(report: &Report) -> Option<&Error> {
    let alive = |outcome: &Outcome| matches!(outcome, Outcome::Pushed { .. } | Outcome::Signed);
    if report.outcomes.values().any(alive) {
        return None;
    }
    report.outcomes.values().find_map(|outcome| match outcome {
        Outcome::Failed(error) => matches!(error.area(), Area::Bucket | Area::Credentials).then_some(error),
        _ => None,
    })
}

fn next(path: &StorePath, attempts: u32, report: &Report, parked: &dyn Fn(&StorePath) -> bool) -> Next {
    match report.outcomes.get(path) {
        Some(Outcome::Refused(reason)) => Next::Park { reason: reason.clone(), blocked_by: None },
        Some(Outcome::Failed(error)) if is_final(error, attempts) => {
            Next::Park { reason: with_hint(error), blocked_by: None }
        }
        Some(Outcome::Failed(error)) => Next::Again(error.to_string()),
        // Parked already, under its own name.
        Some(Outcome::Blocked { by }) if **by == *path => Next::Settled,
        Some(Outcome::Blocked { by }) => {
            let blocker = next(by, attempts, report, parked);
            let name = by.to_basename();
            match blocker {
                Next::Park { reason, .. } => Next::Park {
                    reason: format!("refers to `{name}`: {reason}"),
                    blocked_by: Some((**by).clone()),
                },
                _ if parked(by) => Next::Park {
                    reason: format!("refers to `{name}`, which is parked"),
                    blocked_by: Some((**by).clone()),
                },
                Next::Again(reason) => Next::Again(format!("refers to `{name}`: {reason}")),
                Next::Settled => Next::Again(format!("refers to `{name}`, which is not in the bucket")),
            }
        }
        // There, kept out, or gone.
        Some(_) => Next::Settled,
        None => Next::Again("the push did not come to it".into()),
    }
}

fn is_final(error: &Error, attempts: u32) -> bool {
    match error.retry() {
        // What a server refuses for good, an administrator may allow: only the path's own faults park it at once.
        Retry::Permanent if matches!(error.area(), Area::Bucket | Area::Credentials) => {
            attempts + 1 >= MOST_ATTEMPTS
        }
        Retry::Permanent => true,
        Retry::Unknown => attempts + 1 >= MOST_ATTEMPTS,
        Retry::Transient => false,
    }
}

/// An error with its way out, in one line.
pub(super) fn with_hint(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error} (hint: {hint})"),
        None => error.to_string(),
    }
}

/// What is about to be parked.
#[derive(Default)]
struct ToPark(BTreeMap<QueuedPath, Parked>);

impl ToPark {
    fn add(
        &mut self,
        store: &StoreLocation,
        path: &StorePath,
        word: &Word,
        park: (u32, String, Option<&StorePath>),
    ) {
        let Some(queued) = to_queued(store, path) else { return };
        let (attempts, reason, blocked_by) = park;
        self.0.entry(queued.clone()).or_insert(Parked {
            path: queued,
            since: now(),
            attempts,
            reason,
            blocked_by: blocked_by.and_then(|by| to_queued(store, by)),
            trusted_keys: word.1.clone(),
            origin: word.0,
        });
    }
}

/// Who vouches for a path: the origin of the job that wanted it, and the keys that came with that.
type Word = (Origin, Vec<String>);

/// Applies a report to the jobs `ids`; hands back what is parked now and was not before. Whatever a crash in the
/// middle leaves behind is done again: a job is removed last, after the records of its parked paths are written.
pub(super) fn settle(
    inbox: &mut Inbox,
    queue: &Queue,
    store: &StoreLocation,
    ids: &[String],
    asked: &BTreeSet<StorePath>,
    report: &Report,
    summary: &mut Summary,
) -> Result<Settled> {
    let parked_before: BTreeMap<_, _> =
        queue.parked().map_err(in_queue)?.0.into_iter().map(|parked| (parked.path.clone(), parked)).collect();
    let is_parked =
        |path: &StorePath| to_queued(store, path).is_some_and(|path| parked_before.contains_key(&path));
    let mut to_park = ToPark::default();
    // Members of closures that a job's path is blocked by: parked with that job's word, so that it counts again later.
    let mut blockers: BTreeMap<StorePath, (u32, Word)> = BTreeMap::new();
    // Nothing of a job is changed before what it loses is written down elsewhere.
    let mut decided = Vec::new();
    for id in ids {
        let Some(held) = inbox.jobs().get(id) else { continue };
        let word = (held.job.origin, held.job.trusted_keys.clone());
        let (mut paths, mut again) = (Vec::new(), Vec::new());
        for queued in held.job.paths.clone() {
            let before = held.job.attempts.iter().find(|one| one.path == queued);
            let count = before.map_or(0, |one| one.count);
            let path = from_queued(store, &queued);
            let verdict = match &path {
                // It was not due, and so is not part of this push.
                Some(path) if !asked.contains(path) && !report.outcomes.contains_key(path) => {
                    paths.push(queued.clone());
                    again.extend(before.cloned());
                    continue;
                }
                Some(path) => next(path, count, report, &is_parked),
                None => Next::Again("it is not of this store".into()),
            };
            match (verdict, &path) {
                (Next::Again(reason), _) => {
                    let wait = WAITS.wait(count + 1).as_secs();
                    paths.push(queued.clone());
                    again.push(Attempts { path: queued, count: count + 1, next: now() + wait, reason });
                }
                (Next::Park { reason, blocked_by }, Some(path)) => {
                    if let Some(by) = &blocked_by {
                        blockers.entry(by.clone()).or_insert((count, word.clone()));
                    }
                    to_park.add(store, path, &word, (count + 1, reason, blocked_by.as_ref()));
                }
                (Next::Settled, Some(path)) => match report.outcomes.get(path) {
                    Some(Outcome::Excluded(_)) => summary.excluded += 1,
                    Some(Outcome::Gone) => summary.note_gone(queued.as_str().to_owned(), now()),
                    _ => {}
                },
                (_, None) => {}
            }
        }
        decided.push((id, paths, again));
    }
    let parked_word = |path: &StorePath| {
        let before = to_queued(store, path).and_then(|queued| parked_before.get(&queued));
        before.map_or((Origin::Retry, Vec::new()), |before| (before.origin, before.trusted_keys.clone()))
    };
    for (path, outcome) in &report.outcomes {
        let (count, word) = blockers.get(path).cloned().unwrap_or_else(|| (0, parked_word(path)));
        match outcome {
            Outcome::Failed(error) if is_final(error, count) => {
                to_park.add(store, path, &word, (count + 1, with_hint(error), None));
            }
            Outcome::Refused(reason) if blockers.contains_key(path) => {
                to_park.add(store, path, &word, (count + 1, reason.clone(), None));
            }
            _ => {}
        }
    }

    let mut settled = Settled::default();
    let mut daemon = None;
    for (path, parked) in to_park.0 {
        // One that is parked already keeps its record, unless there is more to say than that it is blocked.
        if parked_before
            .get(&path)
            .is_some_and(|before| parked.blocked_by.is_some() || before.blocked_by.is_none())
        {
            continue;
        }
        park(queue, store, &parked, &mut daemon)?;
        settled.parked.push(parked);
    }
    let mut failure = None;
    for (id, paths, attempts) in decided {
        let written = if paths.is_empty() { inbox.acknowledge(id) } else { inbox.keep(id, paths, attempts) };
        failure = failure.or(written.err());
    }
    if let Some(error) = failure {
        return Err(error);
    }
    for (queued, parked) in &parked_before {
        let outcome = from_queued(store, queued).and_then(|path| report.outcomes.get(&path).cloned());
        match outcome {
            Some(outcome) if outcome.is_available() => settled.freed = true,
            Some(Outcome::Excluded(_)) => summary.excluded += 1,
            Some(Outcome::Gone) => summary.note_gone(queued.as_str().to_owned(), now()),
            _ => continue,
        }
        queue.unpark(parked).map_err(in_queue)?;
    }
    Ok(settled)
}

/// What followed from a report besides jobs that are done or kept.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// What is parked now and was not before.
    pub(super) parked: Vec<Parked>,
    /// Whether something that was parked is there now, so that what it blocked may be tried.
    pub(super) freed: bool,
}

/// Puts a job off that could not be made part of a push, or whose push fails as a whole; after many attempts, what it
/// stands for is parked. What was parked is handed back.
pub(super) fn put_off(
    inbox: &mut Inbox,
    queue: &Queue,
    store: &StoreLocation,
    id: &str,
    error: &Error,
) -> Result<Vec<Parked>> {
    let Some(held) = inbox.jobs().get(id) else { return Ok(Vec::new()) };
    let job = held.job.clone();
    let count = job.attempts.iter().map(|one| one.count).max().unwrap_or(0) + 1;
    let paths = if job.paths.is_empty() { Vec::from_iter(job.deriver) } else { job.paths.clone() };
    if !is_final(error, count - 1) {
        let next = now() + WAITS.wait(count).as_secs();
        let attempts = |path| Attempts { path, count, next, reason: error.to_string() };
        inbox.keep(id, job.paths, paths.into_iter().map(attempts).collect())?;
        return Ok(Vec::new());
    }
    let (mut all, mut daemon) = (Vec::new(), None);
    for path in paths {
        let parked = Parked {
            path,
            since: now(),
            attempts: count,
            reason: with_hint(error),
            blocked_by: None,
            trusted_keys: job.trusted_keys.clone(),
            origin: job.origin,
        };
        park(queue, store, &parked, &mut daemon)?;
        all.push(parked);
    }
    inbox.acknowledge(id)?;
    Ok(all)
}

/// Parks a path, with a root of its own.
fn park(queue: &Queue, store: &StoreLocation, parked: &Parked, daemon: &mut Option<Daemon>) -> Result<()> {
    protect(queue, store, parked, daemon);
    queue.park(parked).map_err(in_queue)
}

/// Gives a path that is about to be parked a root of its own. Where the daemon cannot be asked, the path is parked
/// all the same.
fn protect(queue: &Queue, store: &StoreLocation, parked: &Parked, daemon: &mut Option<Daemon>) {
    let name = parked.link_name();
    if gcroot::link(queue.layout(), &name, &parked.path).is_err() {
        return;
    }
    if daemon.is_none() {
        *daemon = Daemon::connect(store).ok();
    }
    let link = queue.layout().path().join(Place::Roots.name()).join(name);
    if daemon.as_mut().is_some_and(|daemon| daemon.add_indirect_root(&link).is_err()) {
        *daemon = None;
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
