//! `larder retry`: queues parked paths again, or forgets them.

use std::path::PathBuf;

use super::context::Context;
use super::{names, output};
use crate::agent::{forget, not_parked, requeue_all, select_parked};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::base::queue_error::in_queue;
use crate::store::{Selected, paths_of};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Parked paths, named as for `larder push`
    paths: Vec<PathBuf>,
    /// All parked paths
    #[arg(long, conflicts_with = "paths")]
    all: bool,
    /// Forget the paths instead: larder no longer pushes them, and no longer keeps them from garbage collection
    #[arg(long)]
    forget: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let queue = context.queue(&store)?;
    let (mut parked, unreadable) = queue.parked().map_err(in_queue)?;
    // These warnings come before all errors: a named path may be missing because its file cannot be read.
    unreadable.iter().for_each(|failure| output::warn(&failure.to_string()));
    if args.paths.is_empty() && !args.all {
        return Err(
            Error::permanent(Area::Usage, "no paths are given").hint("name parked paths, or give `--all`")
        );
    }
    let mut named = Selected::default();
    if !args.all {
        named = paths_of(&args.paths, &store)?;
        named.retain(|_, path| not_parked(&parked, &store, path));
        names::check(!named.found.is_empty(), &named.bad, None)?;
        parked = select_parked(parked, &store, &named.paths());
    }
    let (word, count) = if args.forget {
        ("forgot", forget(&queue, &parked)?)
    } else {
        ("queued", requeue_all(&queue, &store, &parked)?)
    };
    output::say(&format!("{word} {}", output::count(count, "path")));
    Ok(if named.bad.is_empty() { Exit::Ok } else { Exit::Partial })
}
