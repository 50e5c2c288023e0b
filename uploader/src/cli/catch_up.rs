//! `larder catch-up`: queues what was built here and the hook never saw.

use larder_hook::queue::{Job, Origin, Place, Queue};
use larder_hook::time::now;

use super::context::Context;
use super::output;
use crate::base::error::Result;
use crate::base::exit::Exit;
use crate::format::path_info::PathInfo;
use crate::store::{Daemon, StoreLocation};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look at everything that was ever built here, not only since the queue was made and since the last catch-up
    #[arg(long)]
    all: bool,
    /// Show what would be queued, and queue nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// Up to when an earlier catch-up looked, in seconds since 1970.
const CAUGHT_UP: &str = "caught-up";
/// Looked at again each time, in seconds: clocks are set, and a build's hook may still have been running.
const OVERLAP: u64 = 3600;
const PATHS_A_JOB: usize = 100;

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let known = context.queue(&store).is_ok();
    let queue = context.make_queue(&store)?;
    let begun = now();
    if !known && !args.all {
        output::warn("the queue was made only now; what was built before, `larder catch-up --all` finds");
    }
    let since = if args.all { 0 } else { since(&queue)? };
    let mut daemon = Daemon::connect(&store)?;
    let valid: Vec<_> = daemon.all_valid_paths()?.into_iter().filter(|path| !path.is_derivation()).collect();
    let mut built: Vec<PathInfo> = daemon.path_infos(&valid)?.into_iter().flatten().collect();
    built.retain(|info| info.ultimate && info.registration_time >= since);
    built.sort_by_key(|info| info.registration_time);
    if args.dry_run {
        built.iter().for_each(|info| output::data(&store.store_dir.render_path(&info.path)));
        output::say(&format!("would queue {} paths", built.len()));
        return Ok(Exit::Ok);
    }
    let mut unprotected = None;
    for chunk in built.chunks(PATHS_A_JOB) {
        unprotected =
            crate::agent::enqueue(&queue, &store, &job(&store, chunk, begun))?.err().or(unprotected);
    }
    let text = format!("{begun}\n");
    queue
        .layout()
        .write(Place::State, Place::State, CAUGHT_UP, text.as_bytes())
        .map_err(crate::agent::in_queue)?;
    if let Some(error) = unprotected {
        output::warn(&format!("queued, but a garbage collection may take it: {error}"));
    }
    output::say(&match built.len() {
        0 => "nothing to catch up with".to_owned(),
        count => format!("queued {count} paths; what is in the bucket already is not sent again"),
    });
    Ok(Exit::Ok)
}

fn since(queue: &Queue) -> Result<u64> {
    let read = |name| -> Result<Option<u64>> {
        let text = queue.layout().read(Place::State, name).map_err(crate::agent::in_queue)?;
        Ok(text.and_then(|(bytes, _)| String::from_utf8_lossy(&bytes).trim().parse().ok()))
    };
    // What lies in the future was written under a clock that ran ahead, and tells nothing.
    let past = |at: &u64| *at <= now();
    let caught_up = read(CAUGHT_UP)?.filter(past).map(|at| at.saturating_sub(OVERLAP));
    Ok(caught_up.max(read(larder_hook::queue::SINCE)?.filter(past)).unwrap_or(0))
}

fn job(store: &StoreLocation, infos: &[PathInfo], created: u64) -> Job {
    Job {
        origin: Origin::CatchUp,
        created,
        deriver: None,
        trusted_keys: Vec::new(),
        paths: infos.iter().filter_map(|info| crate::agent::to_queued(store, &info.path)).collect(),
        attempts: Vec::new(),
        roots: infos.len(),
    }
}
