//! `larder flush --wait`: for CI, which must not end before its outputs are in the bucket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::Context;
use super::output::{self, Human};
use super::signals::stopped;
use crate::agent::{Flush, Flushed};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Wait until everything that is queued now has been pushed or parked
    #[arg(long, required = true)]
    wait: bool,
    /// Stop waiting after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let queue = context.make_queue(&store)?;
    // An empty queue does not hide mistakes in the configuration.
    let connect = context.connect(&store).await?;
    let flush = Flush::begin(queue, context.max_pinned())?;
    if flush.jobs() == 0 {
        output::say(&format!("nothing is queued in {}", context.config.state_dir().display()));
    } else {
        output::say(&format!("waiting for {}", output::count(flush.jobs(), "queued build")));
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
                    format!("{left} queued builds have not been pushed in time"),
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
