//! A list of changes to a machine, and the record of what they leave.

use std::path::Path;

use super::change::{Change, Tree};
use super::manifest::Manifest;
use crate::base::error::{Area, Error, Result};

/// Changes, in the order in which they are to be made, and the record of what they leave.
#[derive(Debug)]
pub struct Plan {
    /// Changes to files and links of `larder setup` itself.
    pub files: Vec<Change>,
    /// Changes to Nix's configuration. Installing makes them after [`Plan::files`], removing makes them before.
    pub nix: Vec<Change>,
    /// The record after all changes.
    pub manifest: Manifest,
    /// The program of an earlier hook, which will run after larder's hook.
    pub chained: Option<String>,
    /// Files that the plan leaves alone, with the reason, for people.
    pub remarks: Vec<String>,
}

impl Plan {
    /// A plan without changes.
    pub(super) fn new(manifest: Manifest) -> Self {
        Self { files: Vec::new(), nix: Vec::new(), manifest, chained: None, remarks: Vec::new() }
    }

    /// Whether the plan changes nothing.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.nix.is_empty()
    }
}

/// Builds the plan of an installation. Each method compares the wanted state with the machine.
pub(super) struct PlanBuilder<'a> {
    /// The machine.
    pub(super) tree: &'a Tree,
    /// The record of the last set-up.
    pub(super) old: Manifest,
    /// The plan so far.
    pub(super) plan: Plan,
}

impl<'a> PlanBuilder<'a> {
    /// Begins with the record of the last set-up.
    pub(super) fn new(tree: &'a Tree, old: Manifest) -> Self {
        let manifest = Manifest {
            version: 1,
            directories: old.directories.clone(),
            user: old.user,
            ..Manifest::default()
        };
        Self { tree, old, plan: Plan::new(manifest) }
    }

    /// Adds the missing parents of `path`.
    pub(super) fn parents(&mut self, path: &str) {
        let parents: Vec<_> =
            Path::new(path).ancestors().skip(1).map(|parent| parent.display().to_string()).collect();
        for parent in parents.into_iter().rev().filter(|parent| parent.len() > 1) {
            let planned = self.plan.manifest.directories.contains(&parent);
            if !self.tree.exists(&parent) && !planned {
                self.plan.files.push(Change::Directory(parent.clone()));
                self.plan.manifest.directories.insert(parent);
            }
        }
    }

    /// Adds a file with these contents.
    ///
    /// Fails if the machine has other contents there that are not of `larder setup`.
    pub(super) fn file(&mut self, path: &str, after: Vec<u8>, mode: u32) -> Result<()> {
        self.parents(path);
        let before = self.tree.read(path)?;
        let (digest, ours) = (Manifest::digest(&after), self.old.files.contains_key(path));
        let same = before.as_ref() == Some(&after);
        if before.is_some() && !ours && !same {
            let text = format!("`{path}` exists, and `larder setup` did not create it");
            return Err(Error::permanent(Area::Config, text).hint("move it away or remove it, and try again"));
        }
        if before.is_none() || ours {
            self.plan.manifest.files.insert(path.to_owned(), digest);
        }
        if !same {
            self.plan.files.push(Change::File { path: path.to_owned(), before, after, mode });
        }
        Ok(())
    }

    /// Adds a link. A link to another target is replaced.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        let record = |plan: &mut Plan| plan.manifest.links.insert(path.to_owned(), target.to_owned());
        match self.tree.link(path) {
            Some(found) if found == target => {
                if self.old.links.contains_key(path) {
                    record(&mut self.plan);
                }
                return;
            }
            None if !self.tree.exists(path) => {}
            _ => self.plan.files.push(Change::Remove(path.to_owned())),
        }
        record(&mut self.plan);
        self.plan.files.push(Change::Link { path: path.to_owned(), target: target.to_owned() });
    }
}
