//! `larder retry`: queues parked paths again, or forgets them.

use std::path::PathBuf;

use super::context::Context;
use super::output;
use crate::agent::{forget, parked_paths, requeue_all};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::store::resolve;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Parked paths
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
    if args.paths.is_empty() && !args.all {
        return Err(
            Error::permanent(Area::Usage, "no paths are given").hint("name parked paths, or give `--all`")
        );
    }
    let named = args.paths.iter().map(|path| resolve(&store, path)).collect::<Result<Vec<_>>>()?;
    let (parked, unreadable) = parked_paths(&queue, &store, (!args.all).then_some(&named[..]))?;
    unreadable.iter().for_each(|failure| output::warn(&failure.to_string()));
    let (word, count) = if args.forget {
        ("forgot", forget(&queue, &parked)?)
    } else {
        ("queued", requeue_all(&queue, &store, &parked)?)
    };
    output::say(&format!("{word} {}", output::count(count, "path")));
    Ok(Exit::Ok)
}
