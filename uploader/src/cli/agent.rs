//! `larder agent`.

use std::sync::Arc;
use std::time::Duration;

use super::arguments::seconds;
use super::context::Context;
use super::output::Human;
use super::signals::stopped;
use crate::agent::{Agent, Service, Until};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::config::config_keys::{CREDENTIALS_FILE, LINGER};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Exit when the queue has been empty for a while (`linger`)
    #[arg(long)]
    exit_when_idle: bool,
    /// Seconds that running pushes get to finish when the agent is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = seconds)]
    drain: u64,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let connect = context.connect(&store).await?;
    let queue = context.make_queue(&store)?;
    let progress = Arc::new(Human::new(context.config.bucket()?, true));
    let agent = Agent::open(queue, store, connect, progress).await?.ok_or_else(|| {
        Error::permanent(
            Area::Queue,
            format!("the queue `{}` has an agent already", context.config.state_dir().display()),
        )
        .hint("`larder flush --wait` waits for that agent; a queue has one agent")
    })?;
    let until = if args.exit_when_idle {
        Until::Idle(Duration::from_secs(context.config.get(LINGER)))
    } else {
        Until::Stopped
    };
    let mut agent = agent.with_service(Service::from_environment()).with_max_pinned(context.max_pinned());
    agent = agent.with_failed_logs(context.config.build_logs().has_failed());
    if has_copied_credentials(context) {
        agent = agent.with_copied_credentials();
    }
    agent.run(until, stopped()?, Duration::from_secs(args.drain)).await?;
    Ok(Exit::Ok)
}

/// Whether the credentials file is a copy that systemd made for this process (`LoadCredential=`).
fn has_copied_credentials(context: &Context) -> bool {
    let file = context.config.get(CREDENTIALS_FILE);
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|directory| !directory.is_empty());
    file.zip(directory).is_some_and(|(file, directory)| file.starts_with(directory))
}
