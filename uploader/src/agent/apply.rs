//! Writes down in the queue what was decided. Blocks.
//!
//! A crash between two steps loses nothing: the records of parked paths are written before their job changes, and the
//! next agent repeats the steps that are missing.

use std::collections::{BTreeMap, BTreeSet};

use larder_hook::queue::{Attempts, Job, Parked, Place, Queue, gcroot};
use larder_hook::store_path::StorePath as QueuedPath;

use super::daemon_connection::DaemonConnection;
use super::decide::{
    Clock, Consequence, Decision, ParkedBefore, Parking, PathState, PushedJob, Settled, Voucher,
    after_failure, decide,
};
use super::inbox::Inbox;
use super::path_conversion::{from_queued, to_queued};
use super::records::Summary;
use crate::base::error::{Error, Result};
use crate::base::queue_error::in_queue;
use crate::push::Report;
use crate::store::{StoreLocation, StorePath};

/// What a decision is applied to.
pub(super) struct Target<'a> {
    pub(super) queue: &'a Queue,
    pub(super) store: &'a StoreLocation,
    pub(super) inbox: &'a mut Inbox,
    pub(super) summary: &'a mut Summary,
    pub(super) daemon: &'a mut DaemonConnection,
    pub(super) remark: &'a dyn Fn(String),
}

impl Target<'_> {
    /// Applies a push's report to the jobs `ids` and to the parked paths; `asked` are the paths that the push was asked
    /// for. Returns whether a parked path has become available, so that a path that it blocked may succeed now.
    pub(super) fn settle(
        &mut self,
        ids: &[String],
        asked: &BTreeSet<StorePath>,
        report: &Report,
        clock: Clock,
    ) -> Result<bool> {
        let records = self.queue.parked().map_err(in_queue)?.0;
        let mut parked: BTreeMap<StorePath, &Parked> = BTreeMap::new();
        for record in &records {
            parked.extend(from_queued(self.store, &record.path).map(|path| (path, record)));
        }
        let before = parked.iter().map(|(path, record)| (path.clone(), parked_before(record))).collect();
        let taken: Vec<_> = ids.iter().filter_map(|id| Some((id, &self.inbox.jobs().get(id)?.job))).collect();
        let jobs: Vec<_> = taken.iter().map(|(_, job)| pushed_job(self.store, job)).collect();
        let Decision { jobs: consequences, park, unpark } = decide(&jobs, asked, report, &before, clock);
        let changes: Vec<_> = taken
            .into_iter()
            .zip(consequences)
            .map(|((id, job), consequences)| JobChange::of(id, job, consequences))
            .collect();
        for (path, parking) in park {
            if let Some(record) = self.record(&path, parking, clock) {
                self.park(&record)?;
            }
        }
        self.change_jobs(changes, clock)?;
        let mut frees_others = false;
        for (path, settled) in unpark {
            let Some(record) = parked.get(&path) else { continue };
            frees_others |= settled == Settled::Available;
            self.count(&record.path, settled, clock);
            self.queue.unpark(record).map_err(in_queue)?;
        }
        Ok(frees_others)
    }

    /// Applies an error that concerns a job as a whole: its paths, or its derivation, are tried again or parked.
    pub(super) fn put_off(&mut self, id: &str, error: &Error, clock: Clock) -> Result<()> {
        let Some(taken) = self.inbox.jobs().get(id) else { return Ok(()) };
        let job = taken.job.clone();
        let failures = job.attempts.iter().map(|attempts| attempts.count).max().unwrap_or(0);
        let paths = if job.paths.is_empty() { Vec::from_iter(job.deriver) } else { job.paths.clone() };
        match after_failure(error, failures, clock) {
            Consequence::Again { failures: count, at: next, reason } => {
                let attempts = |path| Attempts { path, count, next, reason: reason.clone() };
                self.inbox.rewrite(id, job.paths, paths.into_iter().map(attempts).collect())
            }
            Consequence::Park { reason, .. } => {
                for path in paths {
                    self.park(&Parked {
                        path,
                        since: clock.now,
                        attempts: failures + 1,
                        reason: reason.clone(),
                        blocked_by: None,
                        trusted_keys: job.trusted_keys.clone(),
                        origin: job.origin,
                    })?;
                }
                self.inbox.remove(id)
            }
            Consequence::Settled(_) | Consequence::Unchanged => Ok(()),
        }
    }

    /// The record of a path that becomes parked; `None` when the queue's rules for names refuse the path.
    fn record(&self, path: &StorePath, parking: Parking, clock: Clock) -> Option<Parked> {
        Some(Parked {
            path: to_queued(self.store, path)?,
            since: clock.now,
            attempts: parking.attempts,
            reason: parking.reason,
            blocked_by: parking.blocked_by.and_then(|by| to_queued(self.store, &by)),
            trusted_keys: parking.voucher.trusted_keys,
            origin: parking.voucher.origin,
        })
    }

    /// Parks a path with a root of its own. When the daemon cannot register the root, the path is parked all the same:
    /// the next reconciliation registers the root.
    fn park(&mut self, parked: &Parked) -> Result<()> {
        let name = parked.link_name();
        if gcroot::link(self.queue.layout(), &name, &parked.path).is_ok() {
            let link = self.queue.layout().path().join(Place::Roots.name()).join(name);
            let _ = self.daemon.get().and_then(|daemon| daemon.add_indirect_root(&link));
        }
        self.queue.park(parked).map_err(in_queue)?;
        (self.remark)(format!("parked `{}`: {}", parked.path, parked.reason));
        Ok(())
    }

    /// Removes the jobs that are done and rewrites the others. An error of one job does not delay the others.
    fn change_jobs(&mut self, changes: Vec<JobChange>, clock: Clock) -> Result<()> {
        let mut first_error = None;
        for change in changes {
            let JobChange { id, paths, attempts, settled } = change;
            settled.iter().for_each(|(path, settled)| self.count(path, *settled, clock));
            let written = if paths.is_empty() {
                self.inbox.remove(&id)
            } else {
                self.inbox.rewrite(&id, paths, attempts)
            };
            first_error = first_error.or(written.err());
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Counts a settled path for `larder status`.
    fn count(&mut self, path: &QueuedPath, settled: Settled, clock: Clock) {
        match settled {
            Settled::Excluded => self.summary.excluded += 1,
            Settled::Gone => self.summary.note_gone(path.as_str().to_owned(), clock.now),
            Settled::Available | Settled::ParkedBefore => {}
        }
    }
}

/// A job's new paths and attempts, and the paths that left it.
struct JobChange {
    id: String,
    paths: Vec<QueuedPath>,
    attempts: Vec<Attempts>,
    settled: Vec<(QueuedPath, Settled)>,
}

impl JobChange {
    /// What the consequences for a job's paths, in the order of the paths, mean for the job.
    fn of(id: &str, job: &Job, consequences: Vec<Consequence>) -> Self {
        let mut change =
            Self { id: id.to_owned(), paths: Vec::new(), attempts: Vec::new(), settled: Vec::new() };
        for (path, consequence) in job.paths.iter().cloned().zip(consequences) {
            match consequence {
                Consequence::Unchanged => {
                    change.attempts.extend(attempts_at(job, &path).cloned());
                    change.paths.push(path);
                }
                Consequence::Again { failures: count, at: next, reason } => {
                    change.attempts.push(Attempts { path: path.clone(), count, next, reason });
                    change.paths.push(path);
                }
                Consequence::Settled(settled) => change.settled.push((path, settled)),
                Consequence::Park { .. } => {}
            }
        }
        change
    }
}

fn attempts_at<'a>(job: &'a Job, path: &QueuedPath) -> Option<&'a Attempts> {
    job.attempts.iter().find(|attempts| attempts.path == *path)
}

/// A job as the decision sees it.
fn pushed_job(store: &StoreLocation, job: &Job) -> PushedJob {
    let state = |path: &QueuedPath| PathState {
        path: from_queued(store, path),
        failures: attempts_at(job, path).map_or(0, |attempts| attempts.count),
    };
    PushedJob { voucher: Voucher::of(job), paths: job.paths.iter().map(state).collect() }
}

/// A parked path as the decision sees it.
fn parked_before(record: &Parked) -> ParkedBefore {
    ParkedBefore {
        is_blocked: record.blocked_by.is_some(),
        voucher: Voucher { origin: record.origin, trusted_keys: record.trusted_keys.clone() },
    }
}
