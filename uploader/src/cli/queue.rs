//! `larder queue`.

use larder_hook::queue::{Layout, Owner};

use super::context::Context;
use super::output;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the queue's directories, handing the agent's to its user
    Create {
        /// The user that the agent runs as, where that is not the caller
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
    },
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    let Command::Create { owner } = args.command;
    let owner = owner.as_deref().map(look_up).transpose()?;
    let state_dir = context.config.state_dir();
    Layout::create(&state_dir, owner).map_err(crate::agent::in_queue)?;
    output::say(&format!("the queue is at {}", state_dir.display()));
    Ok(Exit::Ok)
}

/// The ids of a user, as numbers `uid:gid` or by name from /etc/passwd.
pub(super) fn look_up(name: &str) -> Result<Owner> {
    if let Some((uid, gid)) = name.split_once(':')
        && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
    {
        return Ok(Owner { uid, gid });
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = users.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [user, _, uid, gid, ..] = fields[..] else { return None };
        (user == name).then(|| Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? }))?
    });
    ids.ok_or_else(|| {
        Error::permanent(Area::Usage, format!("there is no user `{name}` in /etc/passwd"))
            .hint("give its ids as UID:GID")
    })
}
