//! `larder flush`: asks the agent to push everything that is queued now. With `--wait`, for CI, which must not end before
//! its outputs are in the bucket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arguments::seconds;
use super::context::Context;
use super::output::{self, Human};
use super::signals::stopped;
use crate::agent::{Flush, Flushed};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Wait until everything that is queued now has been pushed or parked; without an agent, push it
    #[arg(long)]
    wait: bool,
    /// Stop waiting after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "wait")]
    timeout: Option<u64>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    if args.wait { wait(args, context).await } else { ask_agent(context) }
}

/// Asks the agent to try everything now.
fn ask_agent(context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let flush = Flush::begin(context.queue(&store)?)?;
    let (jobs, (_, parked)) = (flush.jobs(), flush.parked()?);
    if jobs + parked == 0 {
        // A build that failed has queued nothing.
        if context.config.build_logs().has_failed() && flush.ask_agent()? {
            output::say("nothing is queued; asked the agent to look for builds that failed");
            return Ok(Exit::Ok);
        }
        output::say(&format!("nothing is queued in {}", context.config.state_dir().display()));
        return Ok(Exit::Ok);
    }
    let jobs = output::count(jobs, "queued build");
    if !flush.ask_agent()? {
        return Err(Error::transient(Area::General, format!("no agent runs, so {jobs} wait"))
            .hint("start the agent, or run `larder flush --wait`, which pushes the queue itself"));
    }
    output::say(&format!(
        "asked the agent to push {jobs} and to try blocked paths again; `larder flush --wait` waits until that is done"
    ));
    if parked > 0 {
        let parked = output::count(parked, "path");
        output::say(&format!("{parked} parked; `larder status` shows why, `larder retry` tries again"));
    }
    Ok(Exit::Ok)
}

async fn wait(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let queue = context.make_queue(&store)?;
    // An empty queue does not hide mistakes in the configuration.
    let connect = context.connect(&store).await?;
    let failed_logs = context.config.build_logs().has_failed();
    let flush = Flush::begin(queue)?.with_max_pinned(context.max_pinned()).with_failed_logs(failed_logs);
    if flush.jobs() == 0 {
        output::say(&format!("nothing is queued in {}", context.config.state_dir().display()));
    } else {
        output::say(&format!("waiting for {}", output::count(flush.jobs(), "queued build")));
    }
    // A build that failed has queued nothing.
    if flush.jobs() > 0 || failed_logs {
        let deadline = args.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let progress = Arc::new(Human::new(context.config.bucket()?, true));
        match flush.run(&store, connect, progress, deadline, stopped()?).await? {
            Flushed::Left(0) => {}
            Flushed::Interrupted => {
                output::say("interrupted; paths that have not been pushed stay queued");
                return Ok(Exit::Interrupted);
            }
            Flushed::Left(left) => {
                return Err(Error::transient(
                    Area::General,
                    format!("{} not pushed in time", output::count(left, "queued build")),
                )
                .hint("they stay queued; `larder status` shows why they wait"));
            }
        }
    }
    let (own, all) = flush.parked()?;
    if all == 0 {
        return Ok(Exit::Ok);
    }
    let all = output::count(all, "parked path");
    output::say(&format!(
        "{all}, {own} from the builds of this flush; `larder status` shows why, `larder retry` tries again"
    ));
    Ok(Exit::Partial)
}
