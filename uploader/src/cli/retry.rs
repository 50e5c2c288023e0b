//! `larder retry`: parked paths are queued again, or given up.

use std::path::PathBuf;

use larder_hook::queue::Parked;

use super::context::Context;
use super::output;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Parked paths
    paths: Vec<PathBuf>,
    /// All of them
    #[arg(long, conflicts_with = "paths")]
    all: bool,
    /// Give the paths up instead: they are forgotten, and no longer kept from garbage collection
    #[arg(long)]
    forget: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let queue = context.queue(&store)?;
    let (parked, bad) = queue.parked().map_err(crate::agent::in_queue)?;
    bad.iter().for_each(|failure| output::warn(&failure.to_string()));
    let chosen: Vec<Parked> = if args.all {
        parked
    } else {
        let wanted =
            args.paths.iter().map(|path| crate::store::resolve(&store, path)).collect::<Result<Vec<_>>>()?;
        if wanted.is_empty() {
            return Err(Error::permanent(Area::Usage, "no paths are given")
                .hint("name parked paths, or give `--all`"));
        }
        let named = |parked: &larder_hook::store_path::StorePath| {
            wanted.iter().any(|path| path.to_basename() == parked.base_name())
        };
        if let Some(path) =
            wanted.iter().find(|path| !parked.iter().any(|one| one.path.base_name() == path.to_basename()))
        {
            return Err(Error::permanent(
                Area::Usage,
                format!("`{}` is not parked", store.store_dir.render_path(path)),
            )
            .hint("`larder status` shows what is"));
        }
        // What a path blocked goes its way with it.
        parked
            .into_iter()
            .filter(|one| named(&one.path) || one.blocked_by.as_ref().is_some_and(named))
            .collect()
    };
    let mut count = 0;
    for parked in &chosen {
        if args.forget {
            queue.unpark(parked).map_err(crate::agent::in_queue)?;
            count += 1;
        } else {
            count += usize::from(crate::agent::requeue(&queue, &store, parked)?);
        }
    }
    output::say(&format!(
        "{} {}",
        if args.forget { "forgot" } else { "queued" },
        output::count(count, "path")
    ));
    Ok(Exit::Ok)
}
