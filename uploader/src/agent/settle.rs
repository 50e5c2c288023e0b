//! What follows from a push's report for the queue: acknowledge, try again later, park.

use std::collections::BTreeMap;
use std::time::Duration;

use larder_hook::gcroot;
use larder_hook::job::{Attempts, Origin};
use larder_hook::layout::Place;
use larder_hook::parked::Parked;
use larder_hook::queue::{Queue, now};
use larder_hook::store_path::StorePath as QueuedPath;

use super::inbox::{Inbox, from_queued, in_queue, to_queued};
use super::records::Summary;
use super::wait::backoff;
use crate::error::{Area, Error, Result, Retry};
use crate::push::{Outcome, Report};
use crate::store::{Daemon, StoreLocation, StorePath};

const FIRST_WAIT: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
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

/// Whether the report speaks of a bucket that cannot be used at all, rather than of single paths: then no path's
/// attempts are counted, and the whole agent waits.
pub(super) fn general_failure(report: &Report) -> Option<&Error> {
    let alive = |outcome: &Outcome| matches!(outcome, Outcome::Pushed { .. } | Outcome::Signed);
    if report.outcomes.values().any(alive) {
        return None;
    }
    // A permanent refusal beside paths that could be read concerns its path alone.
    let readable =
        report.outcomes.values().any(|outcome| matches!(outcome, Outcome::Present | Outcome::Differs));
    report.outcomes.values().find_map(|outcome| match outcome {
        Outcome::Failed(error) => match (error.area(), error.retry()) {
            (Area::Credentials, _) => Some(error),
            (Area::Bucket, Retry::Permanent) => (!readable).then_some(error),
            (Area::Bucket, _) => Some(error),
            _ => None,
        },
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
        Some(Outcome::Blocked { by }) if by == path => Next::Settled,
        Some(Outcome::Blocked { by }) => {
            let blocker = next(by, attempts, report, parked);
            let name = by.to_basename();
            match blocker {
                Next::Park { reason, .. } => Next::Park {
                    reason: format!("refers to `{name}`: {reason}"),
                    blocked_by: Some(by.clone()),
                },
                _ if parked(by) => Next::Park {
                    reason: format!("refers to `{name}`, which is parked"),
                    blocked_by: Some(by.clone()),
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

fn with_hint(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error} (hint: {hint})"),
        None => error.to_string(),
    }
}

/// Applies a report to the jobs `ids`. Whatever a crash in the middle leaves behind is done again: a job is removed
/// last, after the records of its parked paths are written.
pub(super) fn settle(
    inbox: &mut Inbox,
    queue: &Queue,
    store: &StoreLocation,
    ids: &[String],
    report: &Report,
    summary: &mut Summary,
) -> Result<Vec<Parked>> {
    let parked_before: BTreeMap<_, _> =
        queue.parked().map_err(in_queue)?.0.into_iter().map(|parked| (parked.path.clone(), parked)).collect();
    let is_parked =
        |path: &StorePath| to_queued(store, path).is_some_and(|path| parked_before.contains_key(&path));
    let mut newly_parked = Vec::new();

    // Members of closures that can never be pushed as they are, whether a job names them or not.
    let mut to_park: BTreeMap<QueuedPath, Parked> = BTreeMap::new();
    let mut park = |path: &StorePath,
                    attempts: u32,
                    origin: Origin,
                    keys: &[String],
                    reason: String,
                    by: Option<&StorePath>| {
        let Some(queued) = to_queued(store, path) else { return };
        to_park.entry(queued.clone()).or_insert(Parked {
            path: queued,
            since: now(),
            attempts,
            reason,
            blocked_by: by.and_then(|by| to_queued(store, by)),
            trusted_keys: keys.to_vec(),
            origin,
        });
    };
    for (path, outcome) in &report.outcomes {
        if let Outcome::Failed(error) = outcome
            && is_final(error, 0)
        {
            park(path, 1, Origin::Retry, &[], with_hint(error), None);
        }
    }

    let mut done = Vec::new();
    let mut kept = Vec::new();
    for id in ids {
        let Some(held) = inbox.get_mut(id) else { continue };
        let mut again = Vec::new();
        for queued in held.job.paths.clone() {
            let Some(path) = from_queued(store, &queued) else { continue };
            let count = held.job.attempts.iter().find(|one| one.path == queued).map_or(0, |one| one.count);
            match next(&path, count, report, &is_parked) {
                Next::Settled => match report.outcomes.get(&path) {
                    Some(Outcome::Excluded(_)) => summary.excluded += 1,
                    Some(Outcome::Gone) => summary.note_gone(queued.as_str().to_owned(), now()),
                    _ => {}
                },
                Next::Park { reason, blocked_by } => {
                    let keys = held.job.trusted_keys.clone();
                    park(&path, count + 1, held.job.origin, &keys, reason, blocked_by.as_ref());
                }
                Next::Again(reason) => {
                    let wait = backoff(count + 1, FIRST_WAIT, LONGEST_WAIT).as_secs();
                    again.push(Attempts { path: queued, count: count + 1, next: now() + wait, reason });
                }
            }
        }
        if again.is_empty() {
            done.push(id)
        } else {
            kept.push(id)
        }
        held.job.attempts = again;
    }

    let mut daemon = None;
    for (path, parked) in to_park {
        protect(queue, store, &parked, &mut daemon);
        queue.park(&parked).map_err(in_queue)?;
        if !parked_before.contains_key(&path) {
            newly_parked.push(parked);
        }
    }
    for id in kept {
        inbox.keep(id)?;
    }
    for id in done {
        inbox.acknowledge(id)?;
    }
    lift_blocks(queue, store, report, &parked_before)?;
    Ok(newly_parked)
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

/// A parked path that is available now, by whatever way, is no longer parked; what it blocked is queued again.
fn lift_blocks(
    queue: &Queue,
    store: &StoreLocation,
    report: &Report,
    parked: &BTreeMap<QueuedPath, Parked>,
) -> Result<()> {
    for (path, outcome) in &report.outcomes {
        if !outcome.is_available() {
            continue;
        }
        let Some(queued) = to_queued(store, path) else { continue };
        if let Some(freed) = parked.get(&queued) {
            queue.unpark(freed).map_err(in_queue)?;
        }
        for blocked in parked.values().filter(|one| one.blocked_by.as_ref() == Some(&queued)) {
            queue.enqueue(&blocked.clone().into_job(now()), Place::State, None).map_err(in_queue)?;
            queue.unpark(blocked).map_err(in_queue)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
