//! The operations on jobs: enqueue, list, read, take, rewrite, remove.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::gcroot;
use super::job::{BadJob, Job};
use super::layout::{Layout, Place};
use super::lock::Lock;
use crate::failure::{Failure, Result};
use crate::store_path::StorePath;
use crate::time::since_1970;

/// An open queue.
#[derive(Debug)]
pub struct Queue {
    layout: Layout,
    store_dir: String,
}

/// What [`Queue::read`] finds under the id of a job.
#[derive(Debug)]
pub enum Entry {
    /// A job, and its author.
    Job(Job, Author),
    /// A file that cannot be used.
    Bad(BadJob),
    /// No file: another process has taken or removed the job.
    Gone,
}

/// Who wrote the file of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Root or the agent's user. The agent believes that the paths of the job were built on this machine.
    Trusted,
    /// Another user.
    Foreign,
}

/// The most characters of the name of a file that is set aside. The id of a job is shorter.
const SHORT_NAME: usize = 60;

/// The id of a new job: the time and a random number, so that ids are unique and sort by time.
pub(super) fn new_id() -> Result<String> {
    let time = since_1970();
    let mut nonce = [0_u8; 4];
    rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Failure::new("cannot get random bytes", errno))?;
    let nonce = u32::from_ne_bytes(nonce);
    Ok(format!("{:010}-{:09}-{nonce:08x}", time.as_secs(), time.subsec_nanos()))
}

impl Queue {
    /// The queue in `layout`. Its store paths are in `store_dir`.
    pub fn new(layout: Layout, store_dir: impl Into<String>) -> Self {
        Self { layout, store_dir: store_dir.into() }
    }

    /// The directories of the queue.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The store directory of the queue's store paths.
    pub fn store_dir(&self) -> &str {
        &self.store_dir
    }

    /// Queues a job: makes its roots, then writes its file into `incoming/`. The roots are on disk before the file is.
    /// Returns the id of the job.
    ///
    /// `scratch` is the directory for the draft: [`Place::Tmp`] for the hook, [`Place::State`] for the agent's user.
    /// `auto` is Nix's `gcroots/auto`, if the caller may write there. If a root cannot be made, the job is queued
    /// nevertheless, and the error is returned beside the id.
    pub fn enqueue(
        &self,
        job: &Job,
        scratch: Place,
        auto: Option<&Path>,
    ) -> Result<(String, Option<Failure>)> {
        let id = new_id()?;
        let mut unprotected = gcroot::protect(&self.layout, &id, job, auto).err();
        let text = job.to_text();
        let written = self.layout.write_after(scratch, Place::Incoming, &id, text.as_bytes(), || {
            let auto = auto.filter(|_| unprotected.is_none());
            unprotected = unprotected.take().or(gcroot::sync(&self.layout, auto).err());
        });
        // The job is more important than the drafts of hooks that were killed.
        let _ = self.layout.sweep_drafts(scratch);
        if written.is_err() {
            // The agent would remove links without a job later, but a full disk needs the space now.
            let _ = gcroot::release(&self.layout, &id, job.protected().len());
        }
        written.map(|()| (id, unprotected))
    }

    /// The paths of the `count` links of a job in `roots/`. The caller registers them with the daemon.
    pub fn links(&self, id: &str, count: usize) -> impl Iterator<Item = PathBuf> {
        (0..count).map(move |n| gcroot::link_path(&self.layout, &gcroot::link_name(id, n)))
    }

    /// The ids of the jobs in a directory, oldest first.
    pub fn list(&self, place: Place) -> Result<Vec<String>> {
        self.layout.names(place)
    }

    /// Reads a job.
    pub fn read(&self, place: Place, id: &str) -> Result<Entry> {
        let Some((bytes, uid)) = self.layout.read(place, id)? else { return Ok(Entry::Gone) };
        let author = self.author(uid)?;
        Ok(match Job::parse(&self.store_dir, &String::from_utf8_lossy(&bytes)) {
            Ok(job) => Entry::Job(job, author),
            Err(bad) => Entry::Bad(bad),
        })
    }

    /// The author of a file that belongs to the user `uid`.
    fn author(&self, uid: u32) -> Result<Author> {
        // Root may run the agent in the place of another user. That user owns `state/` and is trusted as well.
        let trusted = uid == 0
            || uid == rustix::process::geteuid().as_raw()
            || uid == self.layout.owner(Place::State)?;
        Ok(if trusted { Author::Trusted } else { Author::Foreign })
    }

    /// Moves a new job from `incoming/` to `work/`. Returns whether the job was still there.
    pub fn take(&self, id: &str) -> Result<bool> {
        self.layout.rename(Place::Incoming, id, Place::Work, id)
    }

    /// Replaces a job in `work/`.
    pub fn rewrite(&self, id: &str, job: &Job) -> Result<()> {
        self.layout.write(Place::State, Place::Work, id, job.to_text().as_bytes())
    }

    /// Removes a job that is done: first its `roots` links, then its file in `work/`.
    ///
    /// If the process is killed between the two, the next agent does the job again and removes the rest. In the other
    /// order, links without a job would remain.
    pub fn remove(&self, id: &str, roots: usize) -> Result<()> {
        gcroot::release(&self.layout, id, roots)?;
        self.layout.unlink(Place::Work, id)
    }

    /// Moves a file that is no job from `work/` to `state/unusable-<id>`. Nothing removes that file, so that a person
    /// can look at it.
    pub fn set_aside(&self, id: &str) -> Result<()> {
        // A name has at most 255 bytes.
        let name: String = "unusable-".chars().chain(id.chars()).take(SHORT_NAME).collect();
        self.layout.rename(Place::Work, id, Place::State, &name).map(drop)
    }

    /// The store paths that the links in `roots/` lead to, by the id of the job. The links of parked paths have ids
    /// that begin with `parked-`.
    pub fn rooted(&self) -> Result<BTreeMap<String, Vec<StorePath>>> {
        gcroot::targets(&self.layout, &self.store_dir)
    }

    /// Makes the caller the only agent of this queue; `None` if the queue has another agent.
    pub fn lock(&self) -> Result<Option<Lock>> {
        Lock::take(&self.layout)
    }

    /// Whether the queue has an agent.
    pub fn has_agent(&self) -> Result<bool> {
        Lock::is_held(&self.layout)
    }
}
