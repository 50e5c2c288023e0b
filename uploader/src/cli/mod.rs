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

use crate::base::error::{Area, Cause, Error, Result};
use crate::base::exit::Exit;
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
        Command::Init(args) => block_on(async move { init::run(args, &context).await }),
        Command::Push(args) => block_on(async move { push::run(args, &context).await }),
        Command::Agent(args) => block_on(async move { agent::run(args, &context).await }),
        Command::Flush(args) => block_on(async move { flush::run(args, &context).await }),
        Command::Client(args) => block_on(async move { client::run(args, &context).await }),
        Command::Relay(args) => block_on(async move { relay::run(args, &context).await }),
        Command::Key(_) | Command::Setup(_) => Ok(Exit::Ok),
    }
}

/// Runs a command's future as a task of the runtime, like those of the connections: what one of them wakes then runs in
/// the same thread. With half as many threads as cores, since the other half of the work, reading and compressing, has
/// threads of its own. On two cores, a push of many small paths takes a tenth less time than with more threads.
fn block_on(future: impl Future<Output = Result<Exit>> + Send + 'static) -> Result<Exit> {
    let cannot = |error: Cause| Error::permanent(Area::General, "cannot start").because(error);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime =
        builder.worker_threads(threads).enable_all().build().map_err(|error| cannot(error.into()))?;
    let result = runtime.block_on(runtime.spawn(future));
    // Threads that still read a NAR for a push that was given up are not waited for.
    runtime.shutdown_background();
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(cannot(error.into())),
        },
    }
}
