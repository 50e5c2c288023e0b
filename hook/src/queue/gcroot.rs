//! Garbage-collector roots of queued paths.
//!
//! Each root is two links, like the root that Nix makes for the link `result` of a build. The first link is in larder's
//! `roots/` and leads to the store path. The second link is in Nix's `gcroots/auto/` and leads to the first link. When
//! larder removes the first link, the path is no longer protected, and the next garbage collection removes the second
//! link. So the agent needs no permission to write below `/nix/var`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::files::at_once;
use super::job::Job;
use super::layout::{Layout, Place};
use crate::failure::{Failure, Result};
use crate::fault::point;
use crate::store_path::StorePath;

/// The name of the link to the `n`th path of a job, counted from 0.
pub fn link_name(job: &str, n: usize) -> String {
    format!("{job}.{n}")
}

/// The id of the job that a link belongs to; `None` if the name is not the name of a job's link.
pub fn job_of(link: &str) -> Option<&str> {
    link.rsplit_once('.').map(|(job, _)| job)
}

/// The path of the link `name` in `roots/`.
pub(super) fn link_path(layout: &Layout, name: &str) -> PathBuf {
    layout.path_of(Place::Roots).join(name)
}

/// Makes the roots of the new job `id`: first all links in `roots/`, then those in `auto` (`<nix state>/gcroots/auto`).
///
/// Without `auto`, or after an error there, another process can still register the links.
pub(super) fn protect(layout: &Layout, id: &str, job: &Job, auto: Option<&Path>) -> Result<()> {
    let paths = job.protected();
    link_all(layout, paths.iter().enumerate().map(|(n, path)| (link_name(id, n), path)))?;
    let Some(auto) = auto else { return Ok(()) };
    (0..paths.len()).try_for_each(|n| register(layout, &link_name(id, n), auto))
}

/// Makes the links in `roots/` durable, and those in `auto`, if given. The links of a file are on disk before the file
/// has its name: after a loss of power, no file is without its roots.
pub fn sync(layout: &Layout, auto: Option<&Path>) -> Result<()> {
    let roots = layout.dir(Place::Roots)?;
    let sync_roots = || rustix::fs::fsync(&roots).map_err(Failure::at("sync", &layout.path_of(Place::Roots)));
    let synced = match auto {
        Some(auto) => {
            let mut synced = Ok(());
            let auto = at_once(&roots, || synced = sync_roots(), || sync_directory(auto));
            synced.and(auto)
        }
        None => sync_roots(),
    };
    synced.inspect(|()| point("root: synced"))
}

fn sync_directory(path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(Failure::at("open", path))?;
    rustix::fs::fsync(handle).map_err(Failure::at("sync", path))
}

/// Makes the link `name` in `roots/`, which leads to `path`. An existing link to the same path stays. An existing link
/// to another path is the rest of a failed attempt, because each name is used once; it is replaced.
pub fn link(layout: &Layout, name: &str, path: &StorePath) -> Result<()> {
    link_all(layout, std::iter::once((name.to_owned(), path)))
}

/// Makes several links in `roots/`, each as [`link`] does.
pub fn link_all<'a>(layout: &Layout, links: impl IntoIterator<Item = (String, &'a StorePath)>) -> Result<()> {
    let roots = layout.dir(Place::Roots)?;
    links.into_iter().try_for_each(|(name, path)| link_in(layout, &roots, &name, path))
}

fn link_in(layout: &Layout, roots: &OwnedFd, name: &str, path: &StorePath) -> Result<()> {
    point("root: before");
    let made = match rustix::fs::symlinkat(path.as_str(), roots, name) {
        Ok(()) => {
            point("root: linked");
            Ok(())
        }
        Err(Errno::EXIST) if target(layout, name)?.as_deref() == Some(path.as_str()) => Ok(()),
        Err(Errno::EXIST) => {
            layout.unlink(Place::Roots, name)?;
            rustix::fs::symlinkat(path.as_str(), roots, name)
        }
        Err(errno) => Err(errno),
    };
    made.map_err(|errno| Failure::at("make the root", &link_path(layout, name))(errno))
}

/// Registers the link `name` with Nix by a link in `auto` (`<nix state>/gcroots/auto`).
pub fn register(layout: &Layout, name: &str, auto: &Path) -> Result<()> {
    let target = link_path(layout, name);
    let entry = auto.join(format!("larder-{name}"));
    let link = || rustix::fs::symlink(&target, &entry).inspect(|()| point("root: registered"));
    let made = match link() {
        // Nix makes the directory with the first root of the store.
        Err(Errno::NOENT) => match rustix::fs::mkdir(auto, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => link(),
            Err(errno) => Err(errno),
        },
        other => other,
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Failure::at("register the root", &entry)(errno)),
    }
}

/// The target of a link in `roots/`; `None` if the link does not exist or is not a symbolic link.
pub fn target(layout: &Layout, name: &str) -> Result<Option<String>> {
    match rustix::fs::readlinkat(layout.dir(Place::Roots)?, name, Vec::new()) {
        Ok(target) => Ok(target.into_string().ok()),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(errno) => Err(Failure::at("read the root", &link_path(layout, name))(errno)),
    }
}

/// The store paths in `store_dir` that the links in `roots/` lead to, by the part of the link's name that [`job_of`]
/// gives.
pub(super) fn targets(layout: &Layout, store_dir: &str) -> Result<BTreeMap<String, Vec<StorePath>>> {
    let mut targets = BTreeMap::<_, Vec<_>>::new();
    for name in layout.names(Place::Roots)? {
        let Some(job) = job_of(&name) else { continue };
        let Some(target) = target(layout, &name)? else { continue };
        if let Ok(path) = StorePath::parse(store_dir, &target) {
            targets.entry(job.to_owned()).or_default().push(path);
        }
    }
    Ok(targets)
}

/// Removes the `count` links of a job. The last link goes first: after a crash, the remaining links are still numbered
/// from 0.
pub fn release(layout: &Layout, job: &str, count: usize) -> Result<()> {
    (0..count).rev().try_for_each(|n| layout.unlink(Place::Roots, &link_name(job, n)))
}
