//! The `larder` command: one file for each subcommand. A subcommand parses its arguments, calls the library and prints.
//! No other part of the library prints.

mod agent;
mod arguments;
mod catch_up;
mod client;
mod collect;
mod config;
mod context;
mod flush;
mod init;
mod key;
mod names;
mod output;
mod pin;
mod push;
mod queue;
mod recheck;
mod relay;
mod remove;
mod repair;
mod retry;
mod rules;
mod setup;
mod sign;
mod signals;
mod status;
mod transfer;
mod upgrade;
mod verify;
mod whole_bucket;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::base::error::{Area, Cause, Error, Result};
use crate::base::exit::Exit;
use arguments::Global;
use context::Context;

/// Signs Nix store paths and pushes them into your own bucket. Unmodified Nix clients read the bucket as a static binary
/// cache.
#[derive(Debug, Parser)]
#[command(name = "larder", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 success, 1 general error, 2 usage, 3 partly done, 4 configuration, 5 credentials, 6 store, 7 bucket, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare a bucket: write its marker and nix-cache-info, and let everybody read it
    Init(init::Args),
    /// Generate signing keys and print public keys
    Key(key::Args),
    /// Push store paths and their closures
    Push(push::Args),
    /// Push what the hook queues
    Agent(agent::Args),
    /// Queue paths that were built here without the hook
    CatchUp(catch_up::Args),
    /// Look again at what the agent pushed or found in the bucket, and queue what clients cannot take any more
    Recheck(recheck::Args),
    /// Verify that clients can take what the bucket holds
    Verify(verify::Args),
    /// Mend what a verification finds: from the local store, or from other caches
    Repair(repair::Args),
    /// Keep paths and what they refer to in the bucket
    Pin(pin::PinArgs),
    /// List the pins of the bucket
    Pins(pin::PinsArgs),
    /// Remove a pin, or one of its generations
    Unpin(pin::UnpinArgs),
    /// Tell why a path stays in the bucket, or since when it may go
    Why(why::Args),
    /// Remove from the bucket what no pin and no rule keeps, while writers use it
    Collect(collect::Args),
    /// Remove paths and all that refers to them, whatever keeps them
    Remove(remove::Args),
    /// Bring the bucket to the newest format
    Upgrade(upgrade::Args),
    /// Copy paths from another cache, without a local store
    Copy(transfer::CopyArgs),
    /// Make staged builds of another prefix trusted: copy them within the server, and sign them
    Promote(transfer::PromoteArgs),
    /// Sign what a trusted key has signed, and drop the signatures of a retired key
    Sign(sign::Args),
    /// Show the queue: builds, retries, parked paths, and paths kept from garbage collection
    Status(status::Args),
    /// Ask the agent to push all queued builds now, or wait until they are pushed
    Flush(flush::Args),
    /// Queue parked paths again, or forget them
    Retry(retry::Args),
    /// Print the configuration for a client, or check a client
    Client(client::Args),
    /// Answer the Nix of this machine in place of caches that may be unavailable
    Relay(relay::Args),
    /// Check the configuration and print it
    Config(config::Args),
    /// Create the directories of the queue
    Queue(queue::Args),
    /// Install the hook, the units and the user on a Linux with systemd, or remove them
    Setup(setup::Args),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            output::usage(&error);
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
    // `larder key` needs no configuration, and must work with a broken one.
    if let Command::Key(args) = cli.command {
        return key::run(args);
    }
    // `larder setup` reads the configuration of the machine below `--root`.
    if let Command::Setup(args) = cli.command {
        return setup::run(args, &cli.global);
    }
    let context = Context::load(&cli.global)?;
    match cli.command {
        Command::Queue(args) => queue::run(args, &context),
        Command::Status(args) => status::run(args, &context),
        Command::CatchUp(args) => catch_up::run(args, &context),
        Command::Retry(args) => retry::run(args, &context),
        Command::Init(args) => block_on(async move { init::run(args, &context).await }),
        Command::Config(args) => block_on(async move { config::run(args, &context).await }),
        Command::Push(args) => block_on(async move { push::run(args, &context).await }),
        Command::Recheck(args) => block_on(async move { recheck::run(args, &context).await }),
        Command::Verify(args) => block_on(async move { verify::run(args, &context).await }),
        Command::Repair(args) => block_on(async move { repair::run(args, &context).await }),
        Command::Pin(args) => block_on(async move { pin::pin(args, &context).await }),
        Command::Pins(args) => block_on(async move { pin::pins(args, &context).await }),
        Command::Unpin(args) => block_on(async move { pin::unpin(args, &context).await }),
        Command::Why(args) => block_on(async move { why::run(args, &context).await }),
        Command::Collect(args) => block_on(async move { collect::run(args, &context).await }),
        Command::Remove(args) => block_on(async move { remove::run(args, &context).await }),
        Command::Upgrade(args) => block_on(async move { upgrade::run(args, &context).await }),
        Command::Copy(args) => block_on(async move { transfer::copy(args, &context).await }),
        Command::Promote(args) => block_on(async move { transfer::promote(args, &context).await }),
        Command::Sign(args) => block_on(async move { sign::run(args, &context).await }),
        Command::Agent(args) => block_on(async move { agent::run(args, &context).await }),
        Command::Flush(args) => block_on(async move { flush::run(args, &context).await }),
        Command::Client(args) => block_on(async move { client::run(args, &context).await }),
        Command::Relay(args) => block_on(async move { relay::run(args, &context).await }),
        Command::Key(_) | Command::Setup(_) => Ok(Exit::Ok),
    }
}

/// Runs the future of a command as a task of a new runtime.
///
/// The connections are tasks of the same runtime, so that a task that a connection wakes runs in the same thread. The
/// runtime has half as many threads as the machine has cores, because the threads that read and compress NARs need the
/// other half. On two cores, a push of many small paths takes a tenth less time than with more threads.
fn block_on(future: impl Future<Output = Result<Exit>> + Send + 'static) -> Result<Exit> {
    let cannot =
        |error: Cause| Error::permanent(Area::General, "cannot start the async runtime").because(error);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime =
        builder.worker_threads(threads).enable_all().build().map_err(|error| cannot(error.into()))?;
    let result = runtime.block_on(runtime.spawn(future));
    // After an interrupted push, threads may still read NARs. Nothing waits for them.
    runtime.shutdown_background();
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(cannot(error.into())),
        },
    }
}
