//! The operations on parked paths: park, list, queue again, remove.

use std::path::Path;

use super::gcroot;
use super::layout::Place;
use super::operations::{Queue, new_id};
use super::parked::Parked;
use crate::failure::{Failure, Result};
use crate::time::now;

impl Queue {
    /// Parks a path: makes its link in `roots/`, then writes its file.
    ///
    /// If possible, the caller registers the link with the daemon beforehand. Until then the roots of the job protect
    /// the path.
    pub fn park(&self, parked: &Parked) -> Result<()> {
        gcroot::link(self.layout(), &parked.link_name(), &parked.path)?;
        gcroot::sync(self.layout(), None)?;
        let text = parked.to_text();
        self.layout().write(Place::State, Place::Parked, parked.path.base_name(), text.as_bytes())
    }

    /// All parked paths, and a failure for each file that cannot be read.
    pub fn parked(&self) -> Result<(Vec<Parked>, Vec<Failure>)> {
        let (mut parked, mut failures) = (Vec::new(), Vec::new());
        for name in self.layout().names(Place::Parked)? {
            match self.read_parked(&name) {
                Ok(read) => parked.extend(read),
                Err(failure) => failures.push(failure),
            }
        }
        Ok((parked, failures))
    }

    /// Reads a file in `parked/`; `None` if the file does not exist.
    fn read_parked(&self, name: &str) -> Result<Option<Parked>> {
        let Some((bytes, _)) = self.layout().read(Place::Parked, name)? else { return Ok(None) };
        let parked = Parked::parse(self.store_dir(), &String::from_utf8_lossy(&bytes));
        parked.map(Some).map_err(|bad| {
            Failure::new(format!("cannot use `parked/{name}`"), std::io::Error::other(bad.to_string()))
        })
    }

    /// Queues a parked path again by moving its file to `incoming/`. Returns the id of the new job, or `None` if the
    /// path is no longer parked.
    ///
    /// If a root cannot be made, the job is queued nevertheless, and the error is returned beside the id. The link of
    /// the parked path in `roots/` stays.
    pub fn requeue(&self, parked: &Parked, auto: Option<&Path>) -> Result<Option<(String, Option<Failure>)>> {
        let id = new_id()?;
        let job = parked.clone().into_job(now());
        let protected = gcroot::protect(self.layout(), &id, &job, auto);
        let unprotected = protected.and_then(|()| gcroot::sync(self.layout(), auto)).err();
        if self.layout().rename(Place::Parked, parked.path.base_name(), Place::Incoming, &id)? {
            return Ok(Some((id, unprotected)));
        }
        gcroot::release(self.layout(), &id, job.roots)?;
        Ok(None)
    }

    /// Removes a path from `parked/`, and then its link in `roots/`.
    pub fn unpark(&self, parked: &Parked) -> Result<()> {
        self.layout().unlink(Place::Parked, parked.path.base_name())?;
        self.layout().unlink(Place::Roots, &parked.link_name())
    }

    /// Removes the links of parked paths that have no file in `parked/`: a process was killed between the two. An entry that
    /// cannot be removed delays no other entry; its error is returned.
    pub fn sweep_parked_roots(&self) -> Result<()> {
        // Only the names of the files count, so that a path that a later version of larder parked keeps its link.
        let parked = self.layout().names(Place::Parked)?;
        let links = self.layout().names(Place::Roots)?;
        let is_stale = |link: &&String| {
            Parked::hash_of_link(link).is_some_and(|hash| !parked.iter().any(|name| name.starts_with(hash)))
        };
        let removed = links.iter().filter(is_stale).map(|link| self.layout().unlink(Place::Roots, link));
        removed.fold(Ok(()), Result::and)
    }
}
