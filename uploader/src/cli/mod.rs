//! The `larder` command: one file per subcommand. Terminal output lives only here.

mod agent;
mod catch_up;
mod client;
mod config;
mod context;
mod flush;
mod init;
mod key;
mod output;
mod push;
mod queue;
mod relay;
mod retry;
mod setup;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::exit::Exit;
use context::{Context, Global};

/// Signs Nix store paths and pushes them into a bucket of your own, which stock Nix clients read as a plain static
/// binary cache.
#[derive(Debug, Parser)]
#[command(name = "larder", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 done, 1 general, 2 usage, 3 done in part, 4 configuration, 5 credentials, 6 store, 7 bucket, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a bucket ready: marker, nix-cache-info, anonymous reading
    Init(init::Args),
    /// Make and show signing keys
    Key(key::Args),
    /// Push paths and their closures by hand
    Push(push::Args),
    /// Work the queue off that the hook fills
    Agent(agent::Args),
    /// Queue what was built here and the hook never saw
    CatchUp(catch_up::Args),
    /// Show what is queued, parked, excluded and kept from garbage collection
    Status(status::Args),
    /// Wait until everything that is queued now has been pushed
    Flush(flush::Args),
    /// Queue parked paths again, or give them up
    Retry(retry::Args),
    /// Print what makes a machine use the cache, and check it
    Client(client::Args),
    /// Stand between Nix and caches that may be away, on a machine that travels
    Relay(relay::Args),
    /// Show and check the configuration
    Config(config::Args),
    /// Make the queue's directories
    Queue(queue::Args),
    /// Install hook, units and user on a Linux with systemd, or take that back
    Setup(setup::Args),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    match run(cli) {
        Ok(exit) => exit,
        Err(error) => {
            output::error(&error);
            Exit::from(error.area())
        }
    }
    .into()
}

fn run(cli: Cli) -> Result<Exit> {
    // Needs no configuration, and must work when that is broken.
    if let Command::Key(args) = cli.command {
        return key::run(args);
    }
    // Has the configuration of the machine that is set up.
    if let Command::Setup(args) = cli.command {
        return setup::run(args, &cli.global);
    }
    let context = Context::load(&cli.global)?;
    match cli.command {
        Command::Config(args) => config::run(args, &context),
        Command::Queue(args) => queue::run(args, &context),
        Command::Status(args) => status::run(args, &context),
        Command::CatchUp(args) => catch_up::run(args, &context),
        Command::Retry(args) => retry::run(args, &context),
        Command::Init(args) => block_on(init::run(args, &context)),
        Command::Push(args) => block_on(push::run(args, &context)),
        Command::Agent(args) => block_on(agent::run(args, &context)),
        Command::Flush(args) => block_on(flush::run(args, &context)),
        Command::Client(args) => block_on(client::run(args, &context)),
        Command::Relay(args) => block_on(relay::run(args, &context)),
        Command::Key(_) | Command::Setup(_) => Ok(Exit::Ok),
    }
}

fn block_on(future: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        crate::error::Error::permanent(crate::error::Area::General, "cannot start").because(error)
    })?;
    let result = runtime.block_on(future);
    // Threads that still read a NAR for a push that was given up are not waited for.
    runtime.shutdown_background();
    result
}
