//! Garbage-collector roots for queued paths.
//!
//! A root is two links, as Nix makes them for a build's `result`: one in larder's `roots/` to the store path, and one
//! in Nix's `gcroots/auto/` to the first. When larder removes the first, the path is free, and Nix drops the second at
//! its next collection; so the agent needs no right to write below `/nix/var`.

use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::fault::point;
use crate::layout::{Layout, Place};
use crate::store_path::StorePath;
use crate::{Failure, Result};

/// The name of a job's `n`th root.
pub fn link_name(job: &str, n: usize) -> String {
    format!("{job}.{n}")
}

/// The job that a link belongs to.
pub fn job_of(link: &str) -> Option<&str> {
    link.rsplit_once('.').map(|(job, _)| job)
}

/// Links `name` in `roots/` to `path`. One that stands already for the same path is kept; names are used once, so one
/// for another path is left of an attempt that went wrong, and replaced.
pub fn link(layout: &Layout, name: &str, path: &StorePath) -> Result<()> {
    link_all(layout, std::iter::once((name.to_owned(), path)))
}

/// [`link`] for several names and their paths.
pub fn link_all<'a>(layout: &Layout, links: impl IntoIterator<Item = (String, &'a StorePath)>) -> Result<()> {
    let roots = layout.dir(Place::Roots)?;
    links.into_iter().try_for_each(|(name, path)| {
        let failure =
            |errno| Failure::at("make the root", &layout.path().join(Place::Roots.name()).join(&name))(errno);
        point("root: before");
        match rustix::fs::symlinkat(path.as_str(), &roots, &name) {
            Ok(()) => {
                point("root: linked");
                Ok(())
            }
            Err(Errno::EXIST) if target(layout, &name)?.as_deref() == Some(path.as_str()) => Ok(()),
            Err(Errno::EXIST) => {
                layout.unlink(Place::Roots, &name)?;
                rustix::fs::symlinkat(path.as_str(), &roots, &name).map_err(failure)
            }
            Err(errno) => Err(failure(errno)),
        }
    })
}

/// Tells Nix of the link `name` by an entry in `auto` (`<nix state>/gcroots/auto`).
pub fn register(layout: &Layout, name: &str, auto: &Path) -> Result<()> {
    let target = layout.path().join(Place::Roots.name()).join(name);
    let entry = auto.join(format!("larder-{name}"));
    let link = || rustix::fs::symlink(&target, &entry).inspect(|()| point("root: registered"));
    match link() {
        // A store on which nothing was ever rooted has no such directory yet.
        Err(Errno::NOENT) => match rustix::fs::mkdir(auto, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => link(),
            Err(errno) => Err(errno),
        },
        other => other,
    }
    .or_else(|errno| if errno == Errno::EXIST { Ok(()) } else { Err(errno) })
    .map_err(Failure::at("register the root", &entry))
}

/// Where a link in `roots/` points; `None` when it is gone or no link.
pub fn target(layout: &Layout, name: &str) -> Result<Option<String>> {
    match rustix::fs::readlinkat(layout.dir(Place::Roots)?, name, Vec::new()) {
        Ok(target) => Ok(target.into_string().ok()),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(errno) => Err(Failure::at("read the root", &layout.path().join("roots").join(name))(errno)),
    }
}

/// Removes a job's `count` links. The last first, so that after a crash what is left is numbered from 0 still.
pub fn release(layout: &Layout, job: &str, count: usize) -> Result<()> {
    (0..count).rev().try_for_each(|n| layout.unlink(Place::Roots, &link_name(job, n)))
}
