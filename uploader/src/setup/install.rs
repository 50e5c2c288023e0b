//! Plans the installation of larder on a machine.

use std::path::Path;

use super::change::Tree;
use super::manifest::Manifest;
use super::nix_hook::{self, OtherHook};
use super::paths::{CONFIG, GC_ROOT, HOOK_DIR, STATE_DIR, UNIT_DIR, hook_file};
use super::plan::{Plan, PlanBuilder};
use super::units;
use crate::base::error::{Area, Error, Result};
use crate::config::Config;

/// The parts of an installation.
#[derive(Debug)]
pub struct Installation<'a> {
    /// The bytes of the program `larder`.
    pub larder: Vec<u8>,
    /// The bytes of the program `larder-hook`.
    pub hook: Vec<u8>,
    /// The store path of the package that has the programs, if they are in the store.
    pub package: Option<String>,
    /// The effective configuration.
    pub config: &'a Config,
    /// The text for a new configuration file, if the machine has none.
    pub new_config: String,
    /// Whether to set the hook in Nix's configuration.
    pub install_hook: bool,
}

/// Plans an installation, or the upgrade of an earlier one.
///
/// Fails where the machine does not fit, and where a file of another owner is in the way.
pub fn plan_installation(tree: &Tree, parts: Installation<'_>) -> Result<Plan> {
    refuse_unfit_machine(tree, parts.config)?;
    let other = nix_hook::other_hook(tree)?.filter(|_| parts.install_hook);
    other.as_ref().map_or(Ok(()), refuse_own_hook)?;
    let old = Manifest::load(tree)?;
    if !parts.install_hook && !old.edited.is_empty() {
        let text = "the hook is set, and `--no-hook` would leave it without an owner";
        return Err(Error::permanent(Area::Usage, text)
            .hint("remove the whole set-up first: `larder setup --remove`"));
    }
    let mut builder = PlanBuilder::new(tree, old);
    if let Some(package) = &parts.package {
        builder.link(GC_ROOT, package);
    }
    builder.file(&format!("{HOOK_DIR}/larder"), parts.larder, 0o755)?;
    builder.file(&format!("{HOOK_DIR}/larder-hook"), parts.hook, 0o755)?;
    if let Some(hook) = &other {
        builder.file(&hook_file(true), chaining_script(hook).into(), 0o755)?;
    }
    add_configuration(&mut builder, parts.new_config)?;
    add_units(&mut builder, parts.config)?;
    if parts.install_hook {
        nix_hook::set_hook(&mut builder, other.is_some())?;
    }
    keep_earlier_files(&mut builder);
    builder.plan.chained = other.map(|hook| hook.program);
    Ok(builder.plan)
}

fn refuse_unfit_machine(tree: &Tree, config: &Config) -> Result<()> {
    if tree.exists("/etc/NIXOS") {
        let text = "this is NixOS, which generates its configuration from modules";
        return Err(Error::permanent(Area::Usage, text)
            .hint("use `services.larder` of the flake's nixosModules; `larder setup` is for other systems"));
    }
    if config.state_dir() != Path::new(STATE_DIR) {
        let text = format!("the units need the queue at `{STATE_DIR}`, and `state-dir` has another value");
        return Err(Error::permanent(Area::Config, text)
            .hint("remove `state-dir` from the configuration; another file system can be mounted there"));
    }
    Ok(())
}

/// Fails if the hook that somebody has set is larder's.
fn refuse_own_hook(hook: &OtherHook) -> Result<()> {
    if !hook.program.ends_with("/larder-hook") && !hook.program.starts_with(HOOK_DIR) {
        return Ok(());
    }
    let text = format!("`{}` sets larder's hook already, to `{}`", hook.place, hook.program);
    Err(Error::permanent(Area::Config, text)
        .hint("remove that line and restart nix-daemon first: otherwise each build would be queued twice"))
}

/// A shell script that runs larder's hook, and then the earlier hook.
fn chaining_script(hook: &OtherHook) -> String {
    let program = format!("'{}'", hook.program.replace('\'', r"'\''"));
    format!(
        "#!/bin/sh\n# Made by `larder setup`: Nix runs one hook, and {} names another.\nexec {HOOK_DIR}/larder-hook --then {program}\n",
        hook.place
    )
}

/// Adds the configuration file if the machine has none. An existing file belongs to the machine's owner.
fn add_configuration(builder: &mut PlanBuilder<'_>, text: String) -> Result<()> {
    if !builder.tree.exists(CONFIG) {
        return builder.file(CONFIG, text.into(), 0o644);
    }
    match builder.old.files.get(CONFIG) {
        None => builder.plan.remarks.push(format!("`{CONFIG}` exists and stays as it is")),
        // The digest of the first contents: a removal deletes the file only if it is unchanged.
        Some(digest) => {
            builder.plan.manifest.files.insert(CONFIG.into(), digest.clone());
        }
    }
    Ok(())
}

fn add_units(builder: &mut PlanBuilder<'_>, config: &Config) -> Result<()> {
    for (name, text) in units::render(HOOK_DIR, &units::service_lines(builder.tree, config)?) {
        builder.file(&format!("{UNIT_DIR}/{name}"), text.into(), 0o644)?;
        if let Some(target) = units::wanted_by(&name) {
            builder.link(&format!("{UNIT_DIR}/{target}.wants/{name}"), &format!("{UNIT_DIR}/{name}"));
        }
    }
    Ok(())
}

/// Keeps the files of an earlier set-up in the record. Nix's daemon may still use them, so they stay until a removal.
fn keep_earlier_files(builder: &mut PlanBuilder<'_>) {
    let manifest = &mut builder.plan.manifest;
    for (path, digest) in &builder.old.files {
        manifest.files.entry(path.clone()).or_insert_with(|| digest.clone());
    }
    manifest.edited.extend(builder.old.edited.clone());
}
