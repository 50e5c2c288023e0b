//! Decides what follows from a push for the queue: each path is settled, tried again, or parked. Pure: no I/O, and the
//! time is a parameter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use larder_hook::queue::{Job, Origin};

use crate::base::backoff::{Backoff, Jitter};
use crate::base::error::{Area, Error, Retry};
use crate::push::{Outcome, Report};
use crate::store::StorePath;

/// The waits between the attempts at one path.
const WAITS: Backoff =
    Backoff { first: Duration::from_secs(15), longest: Duration::from_secs(3600), jitter: Jitter::Fifth };
/// A path is parked after this many attempts whose error may or may not be permanent.
const MOST_ATTEMPTS: u32 = 10;

/// The time of a decision, and the waits that follow it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Now, in seconds since 1970.
    pub(super) now: u64,
    /// The wait after so many failed attempts.
    pub(super) wait: fn(u32) -> Duration,
}

impl Clock {
    /// The clock of this machine.
    pub(super) fn system() -> Self {
        Self { now: larder_hook::time::now(), wait: |failures| WAITS.wait(failures) }
    }
}

/// Who says that a path may be signed: the origin of its job, and the public keys that Nix trusted at that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Voucher {
    pub(super) origin: Origin,
    pub(super) trusted_keys: Vec<String>,
}

impl Voucher {
    /// The voucher of a job.
    pub(super) fn of(job: &Job) -> Self {
        Self { origin: job.origin, trusted_keys: job.trusted_keys.clone() }
    }
}

/// A job of a push.
#[derive(Clone, Debug)]
pub(super) struct PushedJob {
    pub(super) voucher: Voucher,
    pub(super) paths: Vec<PathState>,
}

/// A path of a job, before the decision.
#[derive(Clone, Debug)]
pub(super) struct PathState {
    /// The path; `None` when it does not lie in this store.
    pub(super) path: Option<StorePath>,
    /// How many attempts have failed before this push.
    pub(super) failures: u32,
}

/// A path that was parked before the push.
#[derive(Clone, Debug)]
pub(super) struct ParkedBefore {
    /// Whether it is parked only because it refers to another parked path.
    pub(super) is_blocked: bool,
    pub(super) voucher: Voucher,
}

/// Why a path needs no push any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// A client finds it in the bucket or upstream.
    Available,
    /// The configuration excludes it.
    Excluded,
    /// The store has deleted it.
    Gone,
    /// It is parked already.
    ParkedBefore,
}

/// What follows for one path of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// The path was not part of the push: it keeps its attempts.
    Unchanged,
    /// The path leaves its job.
    Settled(Settled),
    /// The path is tried again.
    Again {
        /// How many attempts have failed.
        failures: u32,
        /// The time of the next attempt, in seconds since 1970.
        at: u64,
        /// Why the last attempt failed.
        reason: String,
    },
    /// The path leaves its job and waits for a person's decision.
    Park {
        /// Why.
        reason: String,
        /// The parked path that it refers to, when that is the only reason.
        blocked_by: Option<StorePath>,
    },
}

/// A path that becomes parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parking {
    /// How many attempts have failed.
    pub(super) attempts: u32,
    /// Why it is parked.
    pub(super) reason: String,
    /// The parked path that it refers to, when that is the only reason.
    pub(super) blocked_by: Option<StorePath>,
    pub(super) voucher: Voucher,
}

/// Everything that follows from a push.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// For each job, what follows for each of its paths, both in the order of the jobs and paths that were given.
    pub(super) jobs: Vec<Vec<Consequence>>,
    /// The paths that become parked: paths of the jobs, and paths of their closures that block them.
    pub(super) park: BTreeMap<StorePath, Parking>,
    /// The parked paths that need no decision any more.
    pub(super) unpark: Vec<(StorePath, Settled)>,
}

/// Decides what follows from a push.
///
/// `jobs` are the jobs of the push, `asked` the paths that it was asked for, `report` what became of them and of their
/// closures, and `parked` the paths that were parked before.
pub(super) fn decide(
    jobs: &[PushedJob],
    asked: &BTreeSet<StorePath>,
    report: &Report,
    parked: &BTreeMap<StorePath, ParkedBefore>,
    clock: Clock,
) -> Decision {
    let is_parked = |path: &StorePath| parked.contains_key(path);
    let consequence = |state: &PathState| match &state.path {
        Some(path) if !asked.contains(path) && !report.outcomes.contains_key(path) => Consequence::Unchanged,
        Some(path) => after_push(path, state.failures, report, &is_parked, clock),
        None => again(state.failures, "it is not in this store".into(), clock),
    };
    let consequences: Vec<Vec<_>> =
        jobs.iter().map(|job| job.paths.iter().map(consequence).collect()).collect();
    Decision {
        park: to_park(jobs, &consequences, report, parked),
        jobs: consequences,
        unpark: parked
            .keys()
            .filter_map(|path| Some((path.clone(), settled(report.outcomes.get(path)?)?)))
            .collect(),
    }
}

/// What follows for one path that was part of a push.
fn after_push(
    path: &StorePath,
    failures: u32,
    report: &Report,
    is_parked: &dyn Fn(&StorePath) -> bool,
    clock: Clock,
) -> Consequence {
    match report.outcomes.get(path) {
        Some(Outcome::Refused(reason) | Outcome::Unusable(reason)) => {
            Consequence::Park { reason: reason.clone(), blocked_by: None }
        }
        Some(Outcome::Failed(error)) => after_failure(error, failures, clock),
        Some(Outcome::Blocked { by }) if **by == *path => Consequence::Settled(Settled::ParkedBefore),
        Some(Outcome::Blocked { by }) => {
            let name = by.to_basename();
            match after_push(by, failures, report, is_parked, clock) {
                Consequence::Park { reason, .. } => Consequence::Park {
                    reason: format!("refers to `{name}`: {reason}"),
                    blocked_by: Some((**by).clone()),
                },
                _ if is_parked(by) => Consequence::Park {
                    reason: format!("refers to `{name}`, which is parked"),
                    blocked_by: Some((**by).clone()),
                },
                Consequence::Again { reason, .. } => {
                    again(failures, format!("refers to `{name}`: {reason}"), clock)
                }
                Consequence::Settled(_) | Consequence::Unchanged => {
                    again(failures, format!("refers to `{name}`, which is not in the bucket"), clock)
                }
            }
        }
        Some(outcome) => Consequence::Settled(settled(outcome).unwrap_or(Settled::Available)),
        None => again(failures, "the push ended before this path's turn".into(), clock),
    }
}

/// What follows for a path, or for all paths of a job, after an attempt with this error.
pub(super) fn after_failure(error: &Error, failures: u32, clock: Clock) -> Consequence {
    if is_final(error, failures) {
        Consequence::Park { reason: with_hint(error), blocked_by: None }
    } else {
        again(failures, error.to_string(), clock)
    }
}

fn again(failures: u32, reason: String, clock: Clock) -> Consequence {
    let failures = failures + 1;
    Consequence::Again { failures, at: clock.now + (clock.wait)(failures).as_secs(), reason }
}

/// Whether an outcome settles a path.
fn settled(outcome: &Outcome) -> Option<Settled> {
    match outcome {
        Outcome::Excluded(_) => Some(Settled::Excluded),
        Outcome::Gone => Some(Settled::Gone),
        outcome if outcome.is_available() => Some(Settled::Available),
        _ => None,
    }
}

/// Whether another attempt is useless after `failures` attempts that failed before.
fn is_final(error: &Error, failures: u32) -> bool {
    match error.retry() {
        // An administrator may allow later what a server refuses now.
        Retry::Permanent if matches!(error.area(), Area::Bucket | Area::Credentials) => {
            failures + 1 >= MOST_ATTEMPTS
        }
        Retry::Permanent => true,
        Retry::Unknown => failures + 1 >= MOST_ATTEMPTS,
        Retry::Transient => false,
    }
}

/// The paths that become parked: paths of the jobs, and paths of their closures whose own error is final.
fn to_park(
    jobs: &[PushedJob],
    consequences: &[Vec<Consequence>],
    report: &Report,
    parked: &BTreeMap<StorePath, ParkedBefore>,
) -> BTreeMap<StorePath, Parking> {
    let mut park = BTreeMap::new();
    // What blocks a job's path is parked with that job's voucher, so that the voucher counts at the next attempt, too.
    let mut blockers: BTreeMap<&StorePath, (u32, &Voucher)> = BTreeMap::new();
    for (job, consequences) in jobs.iter().zip(consequences) {
        for (state, consequence) in job.paths.iter().zip(consequences) {
            let (Some(path), Consequence::Park { reason, blocked_by }) = (&state.path, consequence) else {
                continue;
            };
            if let Some(by) = blocked_by {
                blockers.entry(by).or_insert((state.failures, &job.voucher));
            }
            park.entry(path.clone()).or_insert_with(|| Parking {
                attempts: state.failures + 1,
                reason: reason.clone(),
                blocked_by: blocked_by.clone(),
                voucher: job.voucher.clone(),
            });
        }
    }
    let unknown = Voucher { origin: Origin::Retry, trusted_keys: Vec::new() };
    for (path, outcome) in &report.outcomes {
        let before = parked.get(&**path).map_or(&unknown, |before| &before.voucher);
        let (failures, voucher) = blockers.get(&**path).copied().unwrap_or((0, before));
        let reason = match outcome {
            Outcome::Failed(error) if is_final(error, failures) => with_hint(error),
            Outcome::Unusable(reason) => reason.clone(),
            Outcome::Refused(reason) if blockers.contains_key(&**path) => reason.clone(),
            _ => continue,
        };
        park.entry((**path).clone()).or_insert_with(|| Parking {
            attempts: failures + 1,
            reason,
            blocked_by: None,
            voucher: voucher.clone(),
        });
    }
    // A path that is parked keeps its record, unless the record says only "blocked" and there is more to say.
    park.retain(|path, parking| {
        parked.get(path).is_none_or(|before| before.is_blocked && parking.blocked_by.is_none())
    });
    park
}

/// An error of the report that may mean that the bucket cannot be used at all. The caller asks the bucket. If the
/// bucket cannot be used, no path's attempts are counted, and the whole agent waits.
pub(super) fn possible_bucket_error(report: &Report) -> Option<&Error> {
    let was_written = |outcome: &Outcome| matches!(outcome, Outcome::Pushed { .. } | Outcome::Signed);
    if report.outcomes.values().any(was_written) {
        return None;
    }
    report.outcomes.values().find_map(|outcome| match outcome {
        Outcome::Failed(error) => matches!(error.area(), Area::Bucket | Area::Credentials).then_some(error),
        _ => None,
    })
}

/// An error and its hint in one line.
pub(super) fn with_hint(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error} (hint: {hint})"),
        None => error.to_string(),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
