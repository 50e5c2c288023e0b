//! `larder queue`: creates the directories of the queue.

use larder_hook::queue::Layout;

use super::context::Context;
use super::output;
use crate::base::error::Result;
use crate::base::exit::Exit;
use crate::setup::look_up_user;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create the directories of the queue
    Create {
        /// The user that the agent runs as, if it is not the caller: a name or UID:GID
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
    },
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    let Command::Create { owner } = args.command;
    let owner = owner.as_deref().map(look_up_user).transpose()?;
    let state_dir = context.config.state_dir();
    Layout::create(&state_dir, owner).map_err(crate::base::queue_error::in_queue)?;
    output::say(&format!("the queue is at {}", state_dir.display()));
    Ok(Exit::Ok)
}
