//! Makes the changes of a plan, in an order that can be interrupted at any time.

use super::change::{Change, Tree};
use super::manifest::Manifest;
use super::plan::Plan;
use super::processes::still_running;
use super::system::System;
use crate::base::error::Result;

/// The state of a machine after [`remove`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Everything was removed.
    Complete {
        /// Whether the machine still has the queue and the user.
        keeps_queue: bool,
    },
    /// Only the hook was removed from Nix's configuration. These processes may still know the hook, each as its id and
    /// its name.
    Waiting(Vec<String>),
}

/// Installs: first the files, the user, the queue and the units, then the hook.
pub fn install(tree: &Tree, system: &mut System, plan: Plan) -> Result<()> {
    let Plan { files, nix, mut manifest, .. } = plan;
    make_files(tree, files, &manifest)?;
    if system.needs_user() {
        system.add_user()?;
        manifest.user = true;
        manifest.store(tree)?;
    }
    system.make_queue()?;
    system.start()?;
    nix.iter().try_for_each(|change| tree.make(change))?;
    if !nix.is_empty() {
        system.restart_daemon()?;
    }
    Ok(())
}

/// Makes the directories, then the record, then the other changes: the record of an interrupted set-up names all that
/// it has made.
fn make_files(tree: &Tree, changes: Vec<Change>, manifest: &Manifest) -> Result<()> {
    let mut record = Manifest::load(tree)?;
    record.files.extend(manifest.files.clone());
    record.links.extend(manifest.links.clone());
    record.directories.extend(manifest.directories.clone());
    record.edited.extend(manifest.edited.clone());
    let (directories, rest): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| matches!(change, Change::Directory(_)));
    directories.iter().try_for_each(|change| tree.make(change))?;
    record.store(tree)?;
    rest.iter().try_for_each(|change| tree.make(change))?;
    manifest.store(tree)
}

/// Removes: first the hook from Nix's configuration, then the units and the files, and with `queue` the queue and the
/// user.
///
/// Processes of Nix from before fail their builds if the hook is missing. While processes run that may know the hook,
/// this removes nothing but the hook.
pub fn remove(tree: &Tree, system: &mut System, plan: Plan, queue: bool) -> Result<Removal> {
    let Plan { files, nix, mut manifest, .. } = plan;
    if !nix.is_empty() {
        manifest.workers = system.hook_users();
        manifest.store(tree)?;
        nix.iter().try_for_each(|change| tree.make(change))?;
        // A process that has started meanwhile may have read the old configuration.
        manifest.workers.extend(system.hook_users());
        manifest.workers.sort_unstable();
        manifest.workers.dedup();
        manifest.store(tree)?;
        system.restart_daemon()?;
    }
    let processes = still_running(&manifest.workers);
    if !processes.is_empty() {
        return Ok(Removal::Waiting(processes));
    }
    system.stop()?;
    files.iter().try_for_each(|change| tree.make(change))?;
    system.reload()?;
    if queue {
        system.remove_queue()?;
        if manifest.user {
            system.remove_user()?;
        }
    }
    Ok(Removal::Complete { keeps_queue: !queue && system.has_queue() })
}
