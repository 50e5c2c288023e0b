//! `larder push`: the manual backfill.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::context::Context;
use super::output::{self, Human, Json};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::push::{Progress, Pusher, Request, Root};
use crate::store::{Daemon, StoreLocation, StorePath};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Store paths, or links such as ./result
    paths: Vec<PathBuf>,
    /// Read more paths from standard input, separated by white space
    #[arg(long)]
    stdin: bool,
    /// Push everything that is valid in the store, derivations excepted
    #[arg(long, conflicts_with_all = ["paths", "stdin"])]
    all: bool,
    /// Push only these paths; what they refer to must be in the bucket already
    #[arg(long)]
    no_closure: bool,
    /// Show what would be pushed, and push nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Read and compare all narinfos that are there; else, of many, those that differ in size from ours, and a sample
    #[arg(long)]
    check: bool,
    /// How many large paths are worked on at the same time
    #[arg(long, short = 'j', value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Sign and push paths whose origin nobody vouches for
    #[arg(long)]
    trust_unsigned: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let begun = Instant::now();
    let store = context.store()?;
    let mut options = context.options(args.trust_unsigned)?;
    if let Some(jobs) = args.jobs {
        options.jobs = jobs.into();
    }
    let given = given(&args)?;
    // The store is asked while the session with the bucket is opened.
    let asked = store.clone();
    let roots = tokio::task::spawn_blocking(move || {
        let mut daemon = Daemon::connect(&asked)?;
        let roots = roots(given, &asked, &mut daemon)?;
        // Roots that last as long as this connection: nothing of the closure is collected under our hands.
        daemon.add_temp_roots(&roots)?;
        Result::Ok((daemon, roots))
    });
    let (bucket, keys) = (context.bucket().await?, context.keys()?);
    let address = bucket.address();
    let pusher = Pusher::open(bucket, store.clone(), keys, options).await;
    let roots = roots.await.unwrap_or_else(|error| {
        Err(Error::permanent(Area::General, "the thread that reads the store died").because(error))
    });
    let (pusher, (daemon, roots)) = match (pusher, roots) {
        (Ok(pusher), Ok(roots)) => (pusher, roots),
        (Ok(pusher), Err(error)) => {
            pusher.close().await;
            return Err(error);
        }
        (Err(error), _) => return Err(error),
    };
    pusher.lend(daemon);
    if !args.dry_run {
        pusher.begin_sweep(None);
    }
    let request = Request {
        roots: roots.into_iter().map(|path| Root { path, built_here: false }).collect(),
        no_closure: args.no_closure,
        dry_run: args.dry_run,
        read_all: args.check,
        ..Request::default()
    };
    let human = Arc::new(Human::new(address, args.json));
    let json = Arc::new(Json::new(store.store_dir.clone()));
    let progress: Arc<dyn Progress> = if args.json { json.clone() } else { human.clone() };
    let report = tokio::select! {
        report = pusher.push(request, progress) => report,
        _ = tokio::signal::ctrl_c() => {
            human.finish();
            pusher.close().await;
            output::say("interrupted; what has arrived stays, the same command goes on from there");
            return Ok(Exit::Interrupted);
        }
    };
    human.finish();
    pusher.close().await;
    let report = report?;
    if args.json {
        json.totals(&report, args.dry_run, begun.elapsed());
    } else if args.dry_run {
        for (path, outcome) in &report.outcomes {
            if matches!(outcome.word(), "planned" | "signed") {
                output::data(&path.to_basename());
            }
        }
        let paths = output::count(report.count("planned"), "path");
        output::say(&format!("would push {paths} ({} of NAR)", output::size(report.bytes().0)));
    } else if report
        .outcomes
        .values()
        .any(|outcome| !outcome.is_available() || outcome.word() == "pushed" || outcome.word() == "signed")
    {
        output::say(&human.totals(&report, begun.elapsed()));
    }
    Ok(if report.is_complete() { Exit::Ok } else { Exit::Partial })
}

/// What the arguments and standard input name; `None` for everything.
fn given(args: &Args) -> Result<Option<Vec<PathBuf>>> {
    if args.all {
        return Ok(None);
    }
    let mut given = args.paths.clone();
    if args.stdin {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Error::permanent(Area::Usage, "cannot read standard input").because(error))?;
        given.extend(text.split_whitespace().map(PathBuf::from));
    }
    if given.is_empty() && !args.stdin {
        return Err(Error::permanent(Area::Usage, "no paths are given")
            .hint("name store paths or links to them, or give `--stdin` or `--all`"));
    }
    Ok(Some(given))
}

fn roots(
    given: Option<Vec<PathBuf>>,
    store: &StoreLocation,
    daemon: &mut Daemon,
) -> Result<Vec<Arc<StorePath>>> {
    let Some(given) = given else {
        let valid = daemon.all_valid_paths()?;
        return Ok(valid.into_iter().filter(|path| !path.is_derivation()).map(Arc::new).collect());
    };
    let mut roots =
        given.iter().map(|path| resolve(store, path).map(Arc::new)).collect::<Result<Vec<_>>>()?;
    roots.sort();
    roots.dedup();
    let valid = daemon.valid_paths(&roots)?;
    if let Some(path) = roots.iter().find(|path| !valid.contains(&***path)) {
        return Err(Error::permanent(
            Area::Store,
            format!("`{}` is not in the store", store.store_dir.render_path(path)),
        )
        .hint("build it first, or check the path"));
    }
    Ok(roots)
}

/// The store path that `path` is, lies in, or leads to through links.
pub(super) fn resolve(store: &StoreLocation, path: &Path) -> Result<StorePath> {
    const MOST_LINKS: usize = 40;
    let not = |cause: String| {
        Error::permanent(Area::Usage, format!("`{}` is no store path and leads to none", path.display()))
            .because(cause)
    };
    let mut at = std::path::absolute(path).map_err(|error| not(error.to_string()))?;
    for _ in 0..MOST_LINKS {
        if let Ok(inside) = at.strip_prefix(store.store_dir.as_str()) {
            let base =
                inside.components().next().map(|first| first.as_os_str().to_string_lossy().into_owned());
            return StorePath::from_basename(base.unwrap_or_default().as_bytes())
                .map_err(|error| not(error.to_string()));
        }
        // Links among the parents first, such as /run/current-system/sw.
        let parent = at.parent().map(Path::to_owned).unwrap_or_default();
        let real = parent.canonicalize().map_err(|error| not(error.to_string()))?;
        let name = at.file_name().map(ToOwned::to_owned).unwrap_or_default();
        at = real.join(name);
        if at.starts_with(store.store_dir.as_str()) {
            continue;
        }
        let target =
            std::fs::read_link(&at).map_err(|_| not(format!("it is not below `{}`", store.store_dir)))?;
        at = real.join(target);
    }
    Err(not("too many links".into()))
}
