//! Plans the removal of a set-up.

use super::change::{Change, Tree};
use super::manifest::Manifest;
use super::nix_hook;
use super::paths::{HOOK_DIR, MANIFEST};
use super::plan::Plan;
use crate::base::error::{Area, Error, Result};
use crate::client::nix_conf::Block;

/// Plans the removal of everything that the record names. Files that were changed since the set-up stay.
///
/// Fails if a line of another owner names larder's hook.
pub fn plan_removal(tree: &Tree) -> Result<Plan> {
    let old = Manifest::load(tree)?;
    if let Some(hook) = nix_hook::other_hook(tree)?.filter(|hook| hook.program.starts_with(HOOK_DIR)) {
        let text =
            format!("`{}` names `{}`, and `larder setup` did not write that line", hook.place, hook.program);
        return Err(Error::permanent(Area::Config, text)
            .hint("remove that line: Nix fails every build whose hook is missing"));
    }
    let mut plan = Plan::new(old.clone());
    for path in &old.edited {
        plan.nix.extend(remove_block(tree, path)?);
    }
    for (path, target) in &old.links {
        if tree.link(path).as_ref() == Some(target) {
            plan.files.push(Change::Remove(path.clone()));
        }
    }
    for (path, digest) in &old.files {
        match tree.read(path)? {
            Some(bytes) if Manifest::digest(&bytes) != *digest => {
                plan.remarks.push(format!("`{path}` was changed since and stays"));
            }
            Some(_) => plan.files.push(Change::Remove(path.clone())),
            None => {}
        }
    }
    if tree.exists(MANIFEST) {
        plan.files.push(Change::Remove(MANIFEST.into()));
    }
    // In reverse order, a directory comes after the directories in it.
    plan.files.extend(old.directories.iter().rev().map(|path| Change::RemoveDirectory(path.clone())));
    Ok(plan)
}

/// The change that removes larder's block from a file; `None` if the file has no block.
fn remove_block(tree: &Tree, path: &str) -> Result<Option<Change>> {
    let Some(text) = tree.read_text(path)? else { return Ok(None) };
    let block = Block::split(Some(&text));
    if block.lines.is_none() {
        return Ok(None);
    }
    Ok(Some(match block.rest {
        Some(rest) => {
            Change::File { path: path.to_owned(), before: Some(text.into()), after: rest.into(), mode: 0o644 }
        }
        None => Change::Remove(path.to_owned()),
    }))
}
