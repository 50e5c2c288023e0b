//! `larder setup`: installs larder on a Linux with systemd and Nix, and takes that back.

mod system;

use std::path::{Path, PathBuf};

use super::context::Global;
use super::output;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::config::Config;
use crate::config::config_keys::{CREDENTIALS_FILE, SIGNING_KEY_FILES, STORE_DIR};
use crate::setup::{self, Change, Manifest, Plan, Request, STATE_DIR, Tree, USER, diff};
use system::System;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Make the changes; without it they are only shown
    #[arg(long)]
    yes: bool,
    /// Take everything back: the hook first, then the daemon is restarted, then the files go
    #[arg(long)]
    remove: bool,
    /// With --remove: the queue and the user, too; what is queued is lost to the cache
    #[arg(long, requires = "remove")]
    queue: bool,
    /// Leave Nix's configuration alone
    #[arg(long)]
    no_hook: bool,
    /// With no configuration yet: the files with the signing keys
    #[arg(long, value_name = "FILE", default_value = "/etc/larder/key.sec")]
    signing_key_file: Vec<String>,
    /// With no configuration yet: the file with the bucket's credentials
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<String>,
    /// Another machine's root, to set that up: files alone, no user, no service manager
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub(super) fn run(args: Args, global: &Global) -> Result<Exit> {
    let root = args.root.canonicalize().map_err(|error| {
        Error::permanent(Area::Usage, format!("cannot use the root `{}`", args.root.display())).because(error)
    })?;
    let tree = Tree::new(&root);
    if tree.is_this_machine() && args.yes && !system::is_root() {
        return Err(
            Error::permanent(Area::Usage, "`larder setup --yes` changes the machine").hint("run it as root")
        );
    }
    if args.remove { remove(&args, &tree) } else { install(&args, &tree, global) }
}

fn install(args: &Args, tree: &Tree, global: &Global) -> Result<Exit> {
    let (config, new_config) = configuration(args, tree, global)?;
    for file in config.get(SIGNING_KEY_FILES) {
        if !tree.exists(&file) {
            return Err(Error::permanent(Area::Config, format!("there is no signing key `{file}`"))
                .hint(format!("make one: `larder key generate cache.example.org-1 --output {file}`")));
        }
    }
    let program = std::env::current_exe().map_err(|error| failed("find this program", error))?;
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| failed(&format!("read `{}`", path.display()), error))
    };
    let hook = program.with_file_name("larder-hook");
    let request = Request {
        larder: read(&program)?,
        hook: read(&hook)?,
        package: package(&program, &config),
        config: &config,
        new_config,
        install_hook: !args.no_hook,
    };
    let mut plan = setup::setup(tree, request)?;
    let mut system = System::of(tree);
    let new_user = tree.is_this_machine() && !system::has_user(USER);
    if new_user {
        output::data(&format!("new user {USER}"));
    }
    show(&plan);
    if let Some(program) = &plan.chained {
        output::say(&format!(
            "`{program}` is Nix's post-build-hook now; larder's hook will run it after itself"
        ));
    }
    if !new_user && plan.files.is_empty() && plan.nix.is_empty() {
        output::say("nothing is to be changed");
        return Ok(Exit::Ok);
    }
    if !args.yes {
        output::say("nothing was changed; `larder setup --yes` makes it so");
        return Ok(Exit::Ok);
    }
    make(tree, &mut plan.files, &plan.manifest)?;
    if new_user {
        system.add_user()?;
        plan.manifest.user = true;
        plan.manifest.store(tree)?;
    }
    system.make_queue()?;
    system.start()?;
    plan.nix.iter().try_for_each(|change| tree.make(change))?;
    if !plan.nix.is_empty() {
        system.restart_daemon()?;
    }
    system.left.iter().for_each(|text| output::say(text));
    output::say("set up; `larder init --create` makes the bucket ready, `larder status` shows what waits");
    Ok(Exit::Ok)
}

/// Directories first, then the record, so that a set-up that breaks off can be taken back.
fn make(tree: &Tree, files: &mut Vec<Change>, manifest: &Manifest) -> Result<()> {
    let mut record = Manifest::of(tree)?;
    record.files.extend(manifest.files.clone());
    record.links.extend(manifest.links.clone());
    record.directories.extend(manifest.directories.clone());
    record.edited.extend(manifest.edited.clone());
    let (directories, rest): (Vec<_>, Vec<_>) =
        files.drain(..).partition(|change| matches!(change, Change::Directory(_)));
    directories.iter().try_for_each(|change| tree.make(change))?;
    record.store(tree)?;
    rest.iter().try_for_each(|change| tree.make(change))?;
    manifest.store(tree)
}

fn remove(args: &Args, tree: &Tree) -> Result<Exit> {
    let plan = setup::removal(tree)?;
    show(&plan);
    let queue = args.queue && tree.is_this_machine();
    if queue {
        output::data(&format!("gone {STATE_DIR}, with what is queued there"));
    }
    if plan.files.is_empty() && plan.nix.is_empty() && !queue {
        output::say("nothing is set up here");
        return Ok(Exit::Ok);
    }
    if !args.yes {
        output::say("nothing was changed; `larder setup --remove --yes` makes it so");
        return Ok(Exit::Ok);
    }
    let mut system = System::of(tree);
    let mut manifest = plan.manifest;
    if !plan.nix.is_empty() {
        manifest.workers = system.workers();
        manifest.store(tree)?;
        plan.nix.iter().try_for_each(|change| tree.make(change))?;
        system.restart_daemon()?;
    }
    // What was started before knows the hook still, and fails its builds if it is gone.
    let workers = system.still_running(&manifest.workers);
    if !workers.is_empty() {
        system.left.iter().for_each(|text| output::say(text));
        output::warn(&format!(
            "Nix is told to forget the hook; processes of nix-daemon from before use it still ({}), so nothing else was removed: `larder setup --remove --yes` again when they have ended",
            workers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        ));
        return Ok(Exit::Partial);
    }
    system.stop()?;
    plan.files.iter().try_for_each(|change| tree.make(change))?;
    system.reload()?;
    if queue {
        std::fs::remove_dir_all(STATE_DIR)
            .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            .map_err(|error| failed(&format!("remove `{STATE_DIR}`"), error))?;
        if manifest.user {
            system.remove_user()?;
        }
    } else if tree.is_this_machine() && Path::new(STATE_DIR).exists() {
        output::say(&format!(
            "the queue stays at {STATE_DIR}, and the user {USER}; what is queued there is kept from garbage collection"
        ));
    }
    system.left.iter().for_each(|text| output::say(text));
    output::say("removed");
    Ok(Exit::Ok)
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::permanent(Area::General, format!("cannot {what}")).because(error)
}

/// The configuration as it is there, or as it will be.
fn configuration(args: &Args, tree: &Tree, global: &Global) -> Result<(Config, String)> {
    let file = tree.at("/etc/larder/config.toml");
    let mut flags = global.flags()?;
    let variable = |name: &str| (name == "LARDER_CONFIG").then(|| file.display().to_string());
    if file.exists() {
        if !flags.is_empty() {
            return Err(Error::permanent(Area::Usage, format!("`{}` is there already", file.display()))
                .hint("change it, and run `larder setup` without --bucket and --set"));
        }
        return Ok((Config::load(&variable, &[])?, String::new()));
    }
    flags.push(SIGNING_KEY_FILES.flag(args.signing_key_file.join(" ")));
    flags.extend(args.credentials_file.iter().map(|file| CREDENTIALS_FILE.flag(file)));
    let config = Config::load(&|name| (name == "LARDER_CONFIG").then(|| "/dev/null".to_owned()), &flags)?;
    config.bucket()?.parse::<crate::bucket::Address>()?;
    let text = config
        .effective()
        .filter(|(key, ..)| flags.iter().any(|(name, _)| *name == key.name))
        .filter_map(|(key, value, _)| Some(format!("{} = {}\n", key.name, value?)))
        .collect();
    Ok((config, text))
}

/// The package in the store that a program lies in.
fn package(program: &Path, config: &Config) -> Option<String> {
    let store = config.get(STORE_DIR).unwrap_or_else(|| "/nix/store".into());
    let program = program.canonicalize().ok()?;
    let inside = program.strip_prefix(&store).ok()?;
    Some(Path::new(&store).join(inside.components().next()?).display().to_string())
}

fn show(plan: &Plan) {
    for change in plan.files.iter().chain(&plan.nix) {
        match change {
            Change::Directory(path) => output::data(&format!("new directory {path}")),
            Change::File { path, before, after, mode } => {
                let new = if before.is_some() { "changed" } else { "new" };
                match (std::str::from_utf8(before.as_deref().unwrap_or_default()), std::str::from_utf8(after))
                {
                    (Ok(before), Ok(after)) => {
                        output::data(&format!("{new} file {path} (mode {mode:04o})"));
                        output::data(diff(before, after).trim_end_matches('\n'));
                    }
                    _ => output::data(&format!("{new} file {path} ({})", output::size(after.len() as u64))),
                }
            }
            Change::Link { path, target } => output::data(&format!("new link {path} -> {target}")),
            Change::Remove(path) => output::data(&format!("gone {path}")),
            Change::RemoveDirectory(path) => output::data(&format!("gone {path}, if it is empty")),
        }
    }
    plan.remarks.iter().for_each(|text| output::say(text));
}
