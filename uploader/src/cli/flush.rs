//! `larder flush --wait`: for CI, which must not end before its outputs have arrived.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_hook::job::BadJob;
use larder_hook::layout::Place;
use larder_hook::queue::{Entry, Queue};
use larder_hook::store_path::StorePath;

use super::agent::stopped;
use super::context::Context;
use super::output::{self, Human};
use crate::agent::{Agent, Until, in_queue};
use crate::error::{Area, Error, Result};
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Wait until everything that is queued now has been pushed or parked
    #[arg(long, required = true)]
    wait: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let connect = context.connect(&store).await?;
    let queue = context.make_queue(&store)?;
    let (ids, paths) = snapshot(&queue)?;
    if !ids.is_empty() {
        output::say(&format!("waiting for {} queued builds", ids.len()));
        // Nothing waits for its next try while somebody waits for it.
        queue.layout().write(Place::State, Place::Incoming, ".nudge", b"").map_err(in_queue)?;
        let limit = args.timeout.map(Duration::from_secs);
        let done = Until::Done(ids.clone());
        let progress = Arc::new(Human::new(context.config.bucket()?, true));
        let in_time = match Agent::new(queue.clone(), store, connect, progress)? {
            Some(agent) => {
                let out_of_time = async move {
                    match limit {
                        Some(limit) => tokio::time::sleep(limit).await,
                        None => std::future::pending().await,
                    }
                };
                let stop = stopped()?;
                let either = async move {
                    tokio::select! { () = out_of_time => {}, () = stop => {} }
                };
                agent.run(done, either, Duration::from_secs(5)).await?;
                remaining(&queue, &ids)?.is_empty()
            }
            None => wait_for_agent(&queue, &ids, limit).await?,
        };
        if !in_time {
            let left = remaining(&queue, &ids)?.len();
            return Err(Error::transient(
                Area::General,
                format!("{left} queued builds have not been pushed in time"),
            )
            .hint("they stay queued; `larder status` tells why they wait"));
        }
    }
    let parked = queue.parked().map_err(in_queue)?.0;
    let parked: Vec<_> =
        parked.iter().filter(|parked| paths.is_empty() || paths.contains(&parked.path)).collect();
    for parked in &parked {
        output::say(&format!("parked {}: {}", parked.path, parked.reason));
    }
    Ok(if parked.is_empty() { Exit::Ok } else { Exit::Partial })
}

/// The jobs that are queued now, and the paths that they name.
fn snapshot(queue: &Queue) -> Result<(BTreeSet<String>, BTreeSet<StorePath>)> {
    let (mut ids, mut paths) = (BTreeSet::new(), BTreeSet::new());
    // In this order nothing is missed: a job moves from the first place to the second.
    for place in [Place::Incoming, Place::Work] {
        for id in queue.list(place).map_err(in_queue)? {
            match queue.read(place, &id) {
                Ok(Entry::Job(job, _)) => paths.extend(job.paths),
                // A newer larder's job is not ours to wait for.
                Ok(Entry::Bad(BadJob::Newer(_)) | Entry::Gone) => continue,
                // The agent mends it.
                Ok(Entry::Bad(BadJob::Damaged(_))) | Err(_) => {}
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

async fn wait_for_agent(queue: &Queue, ids: &BTreeSet<String>, limit: Option<Duration>) -> Result<bool> {
    let begun = Instant::now();
    while !remaining(queue, ids)?.is_empty() {
        if limit.is_some_and(|limit| begun.elapsed() >= limit) {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(true)
}
