//! `larder setup`: installs larder on a Linux with systemd and Nix, and removes it.

use std::path::PathBuf;

use super::arguments::Global;
use super::output;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::config::config_keys::{CREDENTIALS_FILE, SIGNING_KEY_FILES};
use crate::setup::{self, Removal, STATE_DIR, System, Tree, USER};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Make the changes. Without this flag, larder only shows them
    #[arg(long)]
    yes: bool,
    /// Remove everything: first the hook, then, after a restart of the daemon, the files
    #[arg(long)]
    remove: bool,
    /// With --remove: remove the queue and the user, too. Queued builds will not reach the cache
    #[arg(long, requires = "remove")]
    queue: bool,
    /// Do not change Nix's configuration
    #[arg(long)]
    no_hook: bool,
    /// For a new configuration: the files of the signing keys
    #[arg(long, value_name = "FILE", default_value = "/etc/larder/key.sec")]
    signing_key_file: Vec<String>,
    /// For a new configuration: the file of the bucket's credentials
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<String>,
    /// Set up the machine with this root: write its files, but create no user and start no unit
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub(super) fn run(args: Args, global: &Global) -> Result<Exit> {
    let root = args.root.canonicalize().map_err(|error| {
        Error::permanent(Area::Usage, format!("cannot use the root `{}`", args.root.display())).because(error)
    })?;
    let tree = Tree::new(&root);
    let system = System::of(&tree);
    if args.yes {
        system.require_root()?;
    }
    if args.remove { remove(&args, &tree, system) } else { install(&args, &tree, system, global) }
}

fn install(args: &Args, tree: &Tree, mut system: System, global: &Global) -> Result<Exit> {
    let mut defaults = vec![SIGNING_KEY_FILES.flag("--signing-key-file", args.signing_key_file.join(" "))];
    let credentials = args.credentials_file.iter();
    defaults.extend(credentials.map(|file| CREDENTIALS_FILE.flag("--credentials-file", file)));
    let (config, new_config) = setup::read_or_make_configuration(tree, global.configuration()?, defaults)?;
    let parts = setup::read_installation(tree, &config, new_config, !args.no_hook)?;
    let plan = setup::plan_installation(tree, parts)?;
    if system.needs_user() {
        output::data(&format!("new user {USER}"));
    }
    output::show_plan(&plan);
    if let Some(program) = &plan.chained {
        output::say(&format!(
            "`{program}` is Nix's post-build-hook now; larder's hook will run it after its own work"
        ));
    }
    if !system.needs_user() && plan.is_empty() {
        if args.yes {
            // An earlier version may have made the queue with other modes.
            system.make_queue()?;
        }
        output::say("nothing is to be changed");
        return Ok(Exit::Ok);
    }
    if !args.yes {
        output::say("nothing was changed; `larder setup --yes` makes these changes");
        return Ok(Exit::Ok);
    }
    setup::install(tree, &mut system, plan)?;
    system.left.iter().for_each(|text| output::say(text));
    output::say(
        "set up; next, `larder init --create` prepares the bucket, and `larder status` shows the queue",
    );
    Ok(Exit::Ok)
}

fn remove(args: &Args, tree: &Tree, mut system: System) -> Result<Exit> {
    let plan = setup::plan_removal(tree)?;
    output::show_plan(&plan);
    let queue = args.queue && tree.is_this_machine();
    if queue {
        output::data(&format!("gone {STATE_DIR}, with all queued builds"));
    }
    if plan.is_empty() && !queue {
        output::say("nothing is set up here");
        return Ok(Exit::Ok);
    }
    if !args.yes {
        output::say("nothing was changed; `larder setup --remove --yes` makes these changes");
        return Ok(Exit::Ok);
    }
    let removal = setup::remove(tree, &mut system, plan, queue)?;
    system.left.iter().for_each(|text| output::say(text));
    match removal {
        Removal::Waiting(processes) => {
            output::warn(&format!(
                "the hook is out of Nix's configuration, but processes from before may still know it ({}), so nothing else was removed; run `larder setup --remove --yes` again after they have ended",
                processes.join(", ")
            ));
            return Ok(Exit::Partial);
        }
        Removal::Complete { keeps_queue: true } => output::say(&format!(
            "the queue at {STATE_DIR} and the user {USER} stay; queued paths are kept from garbage collection"
        )),
        Removal::Complete { keeps_queue: false } => {}
    }
    output::say("removed");
    Ok(Exit::Ok)
}
