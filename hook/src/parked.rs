//! Paths that wait for somebody's decision: one file each in `parked/`, named for the store path.

use crate::job::{Attempts, Job, Origin, one_line};
use crate::layout::Place;
use crate::queue::Queue;
use crate::store_path::StorePath;
use crate::{Failure, Result, gcroot};

/// A parked path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The path.
    pub path: StorePath,
    /// When it was parked, in seconds since 1970.
    pub since: u64,
    /// How many attempts failed.
    pub attempts: u32,
    /// Why; one line.
    pub reason: String,
    /// The parked path that it refers to, where that is the only thing against it.
    pub blocked_by: Option<StorePath>,
    /// The public keys that its job had brought.
    pub trusted_keys: Vec<String>,
    /// Who had queued it.
    pub origin: Origin,
}

impl Parked {
    /// The job that queues it again. A parked derivation stands for outputs that could not be found out.
    pub fn into_job(self, created: u64) -> Job {
        let is_drv = self.path.name().ends_with(".drv");
        Job {
            origin: self.origin,
            created,
            deriver: is_drv.then(|| self.path.clone()),
            trusted_keys: self.trusted_keys,
            paths: if is_drv { Vec::new() } else { vec![self.path] },
            attempts: Vec::new(),
            roots: 1,
        }
    }

    /// Stored as a job with a line of attempts, so that there is one format and a parked path is queued again by
    /// moving its file; the blocker, if any, stands in a second line of attempts.
    fn to_job(&self) -> Job {
        let mut job = self.clone().into_job(self.since);
        job.attempts.push(Attempts {
            path: self.path.clone(),
            count: self.attempts,
            next: 0,
            reason: one_line(&self.reason),
        });
        if let Some(blocker) = &self.blocked_by {
            let reason = "blocks it".to_owned();
            job.attempts.push(Attempts { path: blocker.clone(), count: 0, next: 0, reason });
        }
        job
    }

    fn from_job(job: Job) -> Option<Self> {
        let mut attempts = job.attempts.into_iter();
        let own = attempts.next()?;
        Some(Self {
            path: own.path,
            since: job.created,
            attempts: own.count,
            reason: own.reason,
            blocked_by: attempts.next().map(|blocker| blocker.path),
            trusted_keys: job.trusted_keys,
            origin: job.origin,
        })
    }

    /// The name of the link in `roots/` that keeps it.
    pub fn link_name(&self) -> String {
        // Job names begin with a digit and have no dot: this cannot be one of theirs.
        format!("parked-{}.0", self.path.base_name().split('-').next().unwrap_or_default())
    }
}

impl Queue {
    /// Parks a path: its own root first, then its file. The caller tells the daemon of the link beforehand where it
    /// can; until then the job's roots hold the path.
    pub fn park(&self, parked: &Parked) -> Result<()> {
        gcroot::link(self.layout(), &parked.link_name(), &parked.path)?;
        let text = parked.to_job().to_text();
        self.layout().write(Place::State, Place::Parked, parked.path.base_name(), text.as_bytes())
    }

    /// All parked paths; files that cannot be read are told by name.
    pub fn parked(&self) -> Result<(Vec<Parked>, Vec<Failure>)> {
        let (mut parked, mut bad) = (Vec::new(), Vec::new());
        for name in self.layout().names(Place::Parked)? {
            let bytes = match self.layout().read(Place::Parked, &name) {
                Ok(Some((bytes, _))) => bytes,
                Ok(None) => continue,
                Err(failure) => {
                    bad.push(failure);
                    continue;
                }
            };
            let job = Job::parse(self.store_dir(), &String::from_utf8_lossy(&bytes));
            match job.map_err(|error| error.to_string()).map(Parked::from_job) {
                Ok(Some(one)) => parked.push(one),
                Ok(None) => bad.push(unusable(&name, "it holds no reason")),
                Err(error) => bad.push(unusable(&name, &error)),
            }
        }
        Ok((parked, bad))
    }

    /// Takes a path out of `parked/`, with its root.
    pub fn unpark(&self, parked: &Parked) -> Result<()> {
        self.layout().unlink(Place::Parked, parked.path.base_name())?;
        self.layout().unlink(Place::Roots, &parked.link_name())
    }

    /// Removes the roots of parked paths whose file is gone: what a crash between the two leaves.
    pub fn sweep_parked_roots(&self) -> Result<()> {
        // By name: also what a newer larder parked keeps its root.
        let parked = self.layout().names(Place::Parked)?;
        let links = self.layout().names(Place::Roots)?;
        let is_stale = |link: &&String| {
            let hash = link.strip_prefix("parked-").and_then(|rest| rest.strip_suffix(".0"));
            hash.is_some_and(|hash| !parked.iter().any(|name| name.starts_with(hash)))
        };
        links.iter().filter(is_stale).try_for_each(|link| self.layout().unlink(Place::Roots, link))
    }
}

fn unusable(name: &str, reason: &str) -> Failure {
    Failure::new(format!("cannot use `parked/{name}`"), std::io::Error::other(reason.to_owned()))
}
