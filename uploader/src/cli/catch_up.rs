//! `larder catch-up`.

use super::context::Context;
use super::output;
use crate::agent::CatchUp;
use crate::base::error::Result;
use crate::base::exit::Exit;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Find every path that was ever built here, not only those since the queue was made or since the last catch-up
    #[arg(long)]
    all: bool,
    /// Show the paths that would be queued, and queue nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let is_known = context.queue(&store).is_ok();
    let queue = context.make_queue(&store)?;
    if !is_known && !args.all {
        output::warn(
            "the queue was made just now; `larder catch-up --all` finds the paths that were built before",
        );
    }
    let found = CatchUp::find(&queue, &store, args.all)?;
    if found.lost_time && !args.all {
        output::warn(
            "the queue has lost the time when it was made (`state/since`), so paths from before the last catch-up are not looked for; `larder catch-up --all` finds them",
        );
    }
    if args.dry_run {
        found.built.iter().for_each(|info| output::data(&store.store_dir.render_path(&info.path)));
        output::say(&format!("would queue {}", output::count(found.built.len(), "path")));
        return Ok(Exit::Ok);
    }
    if let Some(error) = found.enqueue(&queue, &store)? {
        output::warn(&format!("the paths are queued, but a garbage collection may delete them: {error}"));
    }
    output::say(&match found.built.len() {
        0 => "found no path to queue".to_owned(),
        number => {
            let paths = output::count(number, "path");
            format!("queued {paths}; a path that is in the bucket is not sent again")
        }
    });
    Ok(Exit::Ok)
}
