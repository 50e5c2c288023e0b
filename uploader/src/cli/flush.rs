//! `larder flush --wait`: for CI, which must not end before its outputs have arrived.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_hook::queue::{Entry, Place, Queue};
use larder_hook::store_path::StorePath;

use super::context::Context;
use super::output::{self, Human};
use super::signals::stopped;
use crate::agent::{Agent, NUDGE, Until, in_queue};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::store::StoreLocation;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Wait until everything that is queued now has been pushed or parked
    #[arg(long, required = true)]
    wait: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// How often the agent's progress is looked at, and whether there still is one.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let queue = context.make_queue(&store)?;
    // Mistakes in the configuration show even where there is nothing to do.
    drop(context.connect(&store).await?);
    let (ids, paths) = snapshot(&queue)?;
    if ids.is_empty() {
        output::say(&format!("nothing is queued in {}", context.config.state_dir().display()));
    } else {
        output::say(&format!("waiting for {}", output::count(ids.len(), "queued build")));
        // Nothing waits for its next try while somebody waits for it.
        let _ = queue.layout().write(Place::State, Place::Incoming, NUDGE, b"");
        let deadline = args.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let left = work(context, &store, &queue, &ids, deadline).await?;
        let Some(left) = left else {
            output::say("interrupted; what has not been pushed stays queued");
            return Ok(Exit::Interrupted);
        };
        if left > 0 {
            return Err(Error::transient(
                Area::General,
                format!("{left} queued builds have not been pushed in time"),
            )
            .hint("they stay queued; `larder status` tells why they wait"));
        }
    }
    let parked = queue.parked().map_err(in_queue)?.0;
    if parked.is_empty() {
        return Ok(Exit::Ok);
    }
    let ours = parked.iter().filter(|parked| paths.contains(&parked.path)).count();
    let all = output::count(parked.len(), "parked path");
    output::say(&format!(
        "{all}, {ours} of those waited for; `larder status` tells why, `larder retry` tries again"
    ));
    Ok(Exit::Partial)
}

/// The jobs that are queued now, and the paths that they name.
fn snapshot(queue: &Queue) -> Result<(BTreeSet<String>, BTreeSet<StorePath>)> {
    let (mut ids, mut paths) = (BTreeSet::new(), BTreeSet::new());
    // In this order nothing is missed: a job moves from the first place to the second.
    for place in [Place::Incoming, Place::Work] {
        for id in queue.list(place).map_err(in_queue)? {
            match queue.read(place, &id) {
                Ok(Entry::Job(job, _)) => paths.extend(job.paths),
                // Not ours to wait for.
                Ok(Entry::Gone) => continue,
                Ok(Entry::Bad(bad)) if bad.is_to_be_left_alone() => continue,
                // The agent mends it.
                Ok(Entry::Bad(_)) | Err(_) => {}
            }
            ids.insert(id);
        }
    }
    Ok((ids, paths))
}

fn remaining(queue: &Queue, ids: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut left = queue.list(Place::Incoming).map_err(in_queue)?;
    left.extend(queue.list(Place::Work).map_err(in_queue)?);
    left.retain(|id| ids.contains(id));
    Ok(left)
}

/// Waits for the queue's agent, or becomes it; how many of the jobs are left, or `None` when it was interrupted.
async fn work(
    context: &Context,
    store: &Arc<StoreLocation>,
    queue: &Arc<Queue>,
    ids: &BTreeSet<String>,
    deadline: Option<Instant>,
) -> Result<Option<usize>> {
    let interrupted = AtomicBool::new(false);
    let mut stop = std::pin::pin!(stopped()?);
    loop {
        let left = remaining(queue, ids)?.len();
        if left == 0 || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(Some(left));
        }
        let connect = context.connect(store).await?;
        let progress = Arc::new(Human::new(context.config.bucket()?, true));
        if let Some(agent) = Agent::new(queue.clone(), store.clone(), connect, progress)? {
            let out_of_time = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let either = async {
                tokio::select! { () = out_of_time => {}, () = &mut stop => interrupted.store(true, Ordering::Relaxed) }
            };
            agent.run(Until::Done(ids.clone()), either, Duration::from_secs(5)).await?;
            let left = remaining(queue, ids)?.len();
            return Ok((!interrupted.load(Ordering::Relaxed)).then_some(left));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = &mut stop => return Ok(None),
        }
    }
}
