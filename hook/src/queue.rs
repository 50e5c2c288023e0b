//! The queue: enqueue, list, take, rewrite, remove. Parked paths are in [`crate::parked`].

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::gcroot;
use crate::job::{BadJob, Job};
use crate::layout::{Layout, Place};
use crate::parked::Parked;
use crate::store_path::StorePath;
use crate::{Failure, Result};

/// An open queue.
#[derive(Debug)]
pub struct Queue {
    layout: Layout,
    store_dir: String,
}

/// What stands in a job's file.
#[derive(Debug)]
pub enum Entry {
    /// A job, and whether somebody wrote it whose word on what was built here counts.
    Job(Job, Author),
    /// A file that cannot be used.
    Bad(BadJob),
    /// It was taken away meanwhile.
    Gone,
}

/// Whose file a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Root or the agent's user: what it says was built here is believed.
    Trusted,
    /// Somebody else.
    Foreign,
}

/// The lock that makes an agent the only one of its queue; given up when dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its descriptor")] std::os::fd::OwnedFd);

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A name for a new job: sorts by time, is used once.
fn new_id() -> Result<String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut nonce = [0_u8; 4];
    rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Failure::new("cannot get random bytes", errno))?;
    let nonce = u32::from_ne_bytes(nonce);
    Ok(format!("{:010}-{:09}-{nonce:08x}", since.as_secs(), since.subsec_nanos()))
}

impl Queue {
    /// Opens the queue below `layout`, whose paths lie in `store_dir`.
    pub fn new(layout: Layout, store_dir: impl Into<String>) -> Self {
        Self { layout, store_dir: store_dir.into() }
    }

    /// Its directories.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The store directory that its paths lie in.
    pub fn store_dir(&self) -> &str {
        &self.store_dir
    }

    /// Queues a job: roots first, then the file. `auto` is Nix's `gcroots/auto`, for callers that may write there.
    ///
    /// `scratch` is where the caller may draft ([`Place::Tmp`] for the hook, [`Place::State`] for the agent's user). A
    /// root that cannot be made does not keep the job from being queued; its error is handed back beside the id.
    pub fn enqueue(
        &self,
        job: &Job,
        scratch: Place,
        auto: Option<&Path>,
    ) -> Result<(String, Option<Failure>)> {
        let id = new_id()?;
        let unprotected = self.protect(&id, job, auto).err();
        let written = self.layout.write(scratch, Place::Incoming, &id, job.to_text().as_bytes());
        // What hooks before this one have left, if they were killed.
        let _ = self.layout.sweep_drafts(scratch);
        if written.is_err() {
            // Links without a job would be swept later; but a full disk wants them gone now.
            let _ = gcroot::release(&self.layout, &id, job.paths.len().max(1));
        }
        written.map(|()| (id, unprotected))
    }

    /// Makes the roots of a job: all links first, so that whoever may register them can do so later.
    fn protect(&self, id: &str, job: &Job, auto: Option<&Path>) -> Result<()> {
        let fallback = job.deriver.as_slice();
        let paths: &[StorePath] = if job.paths.is_empty() { fallback } else { &job.paths };
        let name = |n| gcroot::link_name(id, n);
        gcroot::link_all(&self.layout, paths.iter().enumerate().map(|(n, path)| (name(n), path)))?;
        let Some(auto) = auto else { return Ok(()) };
        (0..paths.len()).try_for_each(|n| gcroot::register(&self.layout, &name(n), auto))
    }

    /// The links of a job in `roots/`, for [`gcroot::register`] or for the daemon.
    pub fn links(&self, id: &str, count: usize) -> impl Iterator<Item = std::path::PathBuf> {
        let roots = self.layout.path().join(Place::Roots.name());
        let id = id.to_owned();
        (0..count).map(move |n| roots.join(gcroot::link_name(&id, n)))
    }

    /// Queues a parked path again, in one step that nobody can come between; `None` when it is not parked any more.
    /// As with [`Queue::enqueue`], an error of the root is handed back. The parked path's own root stays.
    pub fn requeue(&self, parked: &Parked, auto: Option<&Path>) -> Result<Option<(String, Option<Failure>)>> {
        let id = new_id()?;
        let job = parked.clone().into_job(now());
        let unprotected = self.protect(&id, &job, auto).err();
        if self.layout.rename(Place::Parked, parked.path.base_name(), Place::Incoming, &id)? {
            return Ok(Some((id, unprotected)));
        }
        gcroot::release(&self.layout, &id, 1)?;
        Ok(None)
    }

    /// The ids of the jobs in a place, oldest first.
    pub fn list(&self, place: Place) -> Result<Vec<String>> {
        self.layout.names(place)
    }

    /// Reads a job.
    pub fn read(&self, place: Place, id: &str) -> Result<Entry> {
        let Some((bytes, uid)) = self.layout.read(place, id)? else { return Ok(Entry::Gone) };
        // Root may stand in for an agent of another user, who owns `state/` and holds the signing key.
        let own = uid == 0
            || uid == rustix::process::geteuid().as_raw()
            || uid == self.layout.owner(Place::State)?;
        let author = if own { Author::Trusted } else { Author::Foreign };
        Ok(match Job::parse(&self.store_dir, &String::from_utf8_lossy(&bytes)) {
            Ok(job) => Entry::Job(job, author),
            Err(bad) => Entry::Bad(bad),
        })
    }

    /// Moves a new job to the agent's own directory; whether it was still there.
    pub fn take(&self, id: &str) -> Result<bool> {
        self.layout.rename(Place::Incoming, id, Place::Work, id)
    }

    /// Replaces a job that the agent has taken.
    pub fn rewrite(&self, id: &str, job: &Job) -> Result<()> {
        self.layout.write(Place::State, Place::Work, id, job.to_text().as_bytes())
    }

    /// Removes a job that is done: its roots first, then its file. Killed between the two, an agent does the job again
    /// and removes both; the other way round, roots would be left that nobody knows the job of.
    pub fn remove(&self, id: &str, roots: usize) -> Result<()> {
        gcroot::release(&self.layout, id, roots)?;
        self.layout.unlink(Place::Work, id)
    }

    /// Moves a file that is no job out of the way, to `state/unusable-…`; it is kept for whoever wants to know.
    pub fn set_aside(&self, id: &str) -> Result<()> {
        self.layout.rename(Place::Work, id, Place::State, &format!("unusable-{id}")).map(drop)
    }

    /// The store paths that the links of each job in `roots/` point to, by job.
    pub fn rooted(&self) -> Result<std::collections::BTreeMap<String, Vec<StorePath>>> {
        let mut rooted = std::collections::BTreeMap::<_, Vec<_>>::new();
        for name in self.layout.names(Place::Roots)? {
            let Some(job) = gcroot::job_of(&name) else { continue };
            let Some(target) = gcroot::target(&self.layout, &name)? else { continue };
            if let Ok(path) = StorePath::parse(&self.store_dir, &target) {
                rooted.entry(job.to_owned()).or_default().push(path);
            }
        }
        Ok(rooted)
    }

    /// Becomes the only agent of this queue; `None` when there is another.
    ///
    /// The lock is one on the directory `state/` itself, so that nobody can leave a lock file behind that another
    /// user cannot open.
    pub fn lock(&self) -> Result<Option<Lock>> {
        // Somebody who only looked whether there is an agent is gone in a moment.
        for _ in 0..5 {
            if let Some(lock) = self.try_lock(FlockOperation::NonBlockingLockExclusive)? {
                return Ok(Some(lock));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(None)
    }

    /// Whether an agent works on this queue.
    pub fn has_agent(&self) -> Result<bool> {
        Ok(self.try_lock(FlockOperation::NonBlockingLockShared)?.is_none())
    }

    fn try_lock(&self, operation: FlockOperation) -> Result<Option<Lock>> {
        let directory = self.layout.dir(Place::State)?;
        match rustix::fs::flock(&directory, operation) {
            Ok(()) => Ok(Some(Lock(directory))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(Failure::at("lock", &self.layout.path().join(Place::State.name()))(errno)),
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
