//! `larder push`: pushes named paths without the queue.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::context::Context;
use super::names;
use super::output::{self, Human, Json};
use super::pin::Lifetime;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::format::pin::PinName;
use crate::push::{Options, Outcome, OutcomeKind, Progress, Pusher, Report, Request, Root};
use crate::store::{self, Daemon, StoreLocation, StorePath};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Store paths, their base names, links such as ./result, or outputs of derivations such as x.drv^out
    paths: Vec<PathBuf>,
    /// Read more paths from standard input, separated by white space
    #[arg(long)]
    stdin: bool,
    /// Push nothing if any path is not in the store. By default, larder names such paths and pushes the others
    #[arg(long)]
    strict: bool,
    /// Push all valid paths of the store except derivations
    #[arg(long, conflicts_with_all = ["paths", "stdin", "strict"])]
    all: bool,
    /// Push only these paths; the bucket must have their references already
    #[arg(long)]
    no_closure: bool,
    /// Show what would be pushed, and push nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Read and judge all narinfos in the bucket, and look up their NARs. By default, larder reads only a sample of many
    /// narinfos, and those with an unexpected size
    #[arg(long)]
    check: bool,
    /// Work on this number of large paths at the same time
    #[arg(long, short = 'j', value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Sign and push paths even if no evidence says that they can be trusted
    #[arg(long)]
    trust_unsigned: bool,
    /// Replace narinfos that no client can use and that only keys of this name have signed. May be given several times
    #[arg(long, value_name = "KEY")]
    adopt: Vec<String>,
    /// Share NARs that others have put into the bucket without a look at their contents
    #[arg(long)]
    trust_bucket: bool,
    /// When all paths are in the bucket, add a generation with them to the pin of this name, such as system/laptop
    #[arg(long, value_name = "NAME", value_parser = PinName::parse, conflicts_with_all = ["all", "dry_run", "no_closure"])]
    pin: Option<PinName>,
    #[command(flatten)]
    lifetime: Lifetime,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// Which paths the arguments select.
enum Selection {
    /// All valid paths except derivations.
    All,
    /// The store paths that these names lead to.
    Named(Vec<PathBuf>),
}

/// What the selection leads to.
struct Wanted {
    /// The selected paths.
    roots: Vec<Arc<StorePath>>,
    /// The names that lead to no valid path, with the reason.
    bad: Vec<(PathBuf, Error)>,
}

/// The renderers of a push. The one that the arguments choose receives the events.
struct Renderers {
    human: Arc<Human>,
    json: Option<Arc<Json>>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let begun = Instant::now();
    check(&args)?;
    let store = context.store()?;
    // A wrong configuration is reported before standard input is read.
    let options = options(&args, context)?;
    let selection = selection(&args)?;
    let (pusher, wanted, address) = open(options, context, &store, selection).await?;
    let json = args.json.then(|| Arc::new(Json::new(store.store_dir.clone())));
    let go_on = !args.strict && !wanted.roots.is_empty();
    if let Err(error) = names::check(go_on, &wanted.bad, json.as_deref()) {
        pusher.close().await;
        return Err(error);
    }
    if !args.dry_run {
        pusher.begin_sweep(None);
    }
    let roots = wanted.roots.clone();
    let request = request(&args, wanted.roots);
    let renderers = Renderers { human: Arc::new(Human::new(address, args.json)), json };
    let report = tokio::select! {
        report = pusher.push(request, renderers.progress()) => Some(report),
        _ = tokio::signal::ctrl_c() => None,
    };
    renderers.human.finish();
    let pushed = report.as_ref().and_then(|report| report.as_ref().ok());
    let there = pushed.filter(|report| has(report, &roots)).and_then(|report| report.since);
    let pinned = match (&args.pin, there) {
        (Some(name), Some(since)) if wanted.bad.is_empty() => {
            Some(pin(&pusher, name, &args, &roots, since).await)
        }
        _ => None,
    };
    pusher.close().await;
    let Some(report) = report else {
        output::say(
            "interrupted; the bucket keeps what has arrived, and the same command continues from there",
        );
        return Ok(Exit::Interrupted);
    };
    let report = report?;
    show(&args, &renderers, &report, begun);
    match (&args.pin, pinned) {
        (_, Some(pinned)) => pinned?,
        (Some(name), None) => {
            output::warn(&format!("`{name}` has no new generation, because not all is pushed"))
        }
        (None, None) => {}
    }
    if !wanted.bad.is_empty() && !args.json {
        output::say(&format!("{} skipped, see the warnings above", output::count(wanted.bad.len(), "name")));
    }
    Ok(if report.is_complete() && wanted.bad.is_empty() { Exit::Ok } else { Exit::Partial })
}

/// What the arguments ask for.
fn request(args: &Args, roots: Vec<Arc<StorePath>>) -> Request {
    Request {
        roots: roots.into_iter().map(|path| Root { path, built_here: false, derivation: None }).collect(),
        no_closure: args.no_closure,
        // `--all` also names what was pushed long ago.
        pins: !args.all && !args.no_closure,
        dry_run: args.dry_run,
        read_all: args.check,
        ..Request::default()
    }
}

/// Refuses flags that belong to a pin without a pin.
fn check(args: &Args) -> Result<()> {
    if args.pin.is_none() && !args.lifetime.is_unset() {
        return Err(Error::permanent(Area::Usage, "`--keep-last` and `--until` belong to a pin")
            .hint("name the pin with `--pin NAME`"));
    }
    Ok(())
}

/// Whether the bucket has all these paths after a push.
fn has(report: &Report, paths: &[Arc<StorePath>]) -> bool {
    let is_there = |kind| {
        matches!(
            kind,
            OutcomeKind::Pushed | OutcomeKind::Signed | OutcomeKind::Present | OutcomeKind::Differs
        )
    };
    let outcome = |path| report.outcomes.get(path).map(Outcome::kind);
    report.is_complete() && paths.iter().all(|path| outcome(path).is_some_and(is_there))
}

/// Pins the pushed paths.
async fn pin(
    pusher: &Pusher,
    name: &PinName,
    args: &Args,
    roots: &[Arc<StorePath>],
    since: Moment,
) -> Result<()> {
    let paths = roots.iter().map(|path| path.to_basename()).collect();
    pusher.pin(name, &args.lifetime.pin(paths), since).await?;
    output::say(&format!("pinned {} as `{name}`", output::count(roots.len(), "path")));
    Ok(())
}

/// The options from the configuration and the arguments.
fn options(args: &Args, context: &Context) -> Result<Options> {
    let mut options = context.options(args.trust_unsigned)?;
    if let Some(jobs) = args.jobs {
        options.jobs = jobs.into();
    }
    options.trust_bucket |= args.trust_bucket;
    // The name of a key is the part before the colon. A whole public key is accepted, too.
    let names = args.adopt.iter().map(|key| key.split_once(':').map_or(key.as_str(), |(name, _)| name));
    options.adopt = names.map(str::to_owned).collect();
    Ok(options)
}

/// Reads the selection from the arguments and standard input.
fn selection(args: &Args) -> Result<Selection> {
    if args.all {
        return Ok(Selection::All);
    }
    let mut names = args.paths.clone();
    if args.stdin {
        let mut text = Vec::new();
        std::io::stdin()
            .read_to_end(&mut text)
            .map_err(|error| Error::permanent(Area::Usage, "cannot read standard input").because(error))?;
        let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        names.extend(words.map(|word| PathBuf::from(OsStr::from_bytes(word))));
    }
    if names.is_empty() && !args.stdin {
        return Err(Error::permanent(Area::Usage, "no paths are given")
            .hint("name store paths or links to them, or give `--stdin` or `--all`"));
    }
    Ok(Selection::Named(names))
}

/// Opens the session with the bucket, and at the same time asks the store what the selection leads to. Returns both and
/// the bucket's address.
async fn open(
    options: Options,
    context: &Context,
    store: &Arc<StoreLocation>,
    selection: Selection,
) -> Result<(Pusher, Wanted, String)> {
    let asked = store.clone();
    let wanted = tokio::task::spawn_blocking(move || select(&selection, &asked));
    let (bucket, keys) = (context.bucket().await?, context.keys()?);
    let address = bucket.address();
    let pusher = Pusher::open(bucket, store.clone(), keys, options).await;
    let wanted = wanted.await.unwrap_or_else(|error| {
        Err(Error::permanent(Area::General, "the thread that reads the store died").because(error))
    });
    match (pusher, wanted) {
        (Ok(pusher), Ok((daemon, wanted))) => {
            pusher.lend(daemon);
            Ok((pusher, wanted, address))
        }
        (Ok(pusher), Err(error)) => {
            pusher.close().await;
            Err(error)
        }
        (Err(error), _) => Err(error),
    }
}

/// What the selection leads to, and the connection that protects the closures of the paths from garbage collection while
/// it is open.
fn select(selection: &Selection, store: &StoreLocation) -> Result<(Daemon, Wanted)> {
    let mut daemon = Daemon::connect(store)?;
    let wanted = match selection {
        Selection::All => Wanted { roots: store::all_outputs(&mut daemon)?, bad: Vec::new() },
        Selection::Named(names) => {
            let selected = store::valid_paths_of(names, store, &mut daemon)?;
            Wanted { roots: selected.paths(), bad: selected.bad }
        }
    };
    daemon.add_temp_roots(&wanted.roots)?;
    Ok((daemon, wanted))
}

impl Renderers {
    fn progress(&self) -> Arc<dyn Progress> {
        match &self.json {
            Some(json) => json.clone(),
            None => self.human.clone(),
        }
    }
}

/// Prints the totals of a push that began at `begun`.
fn show(args: &Args, renderers: &Renderers, report: &Report, begun: Instant) {
    if let Some(json) = &renderers.json {
        json.totals(report, args.dry_run, begun.elapsed());
    } else if args.dry_run {
        for (path, outcome) in &report.outcomes {
            if matches!(outcome.kind(), OutcomeKind::Planned | OutcomeKind::Signed) {
                output::data(&path.to_basename());
            }
        }
        let paths = output::count(report.count(OutcomeKind::Planned), "path");
        output::say(&format!("would push {paths} ({} of NAR)", output::size(report.bytes().0)));
    } else if report.outcomes.values().any(|outcome| {
        let kind = outcome.kind();
        !kind.is_available() || matches!(kind, OutcomeKind::Pushed | OutcomeKind::Signed)
    }) {
        output::say(&renderers.human.totals(report, begun.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::{Config, Flag};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[tokio::test]
    async fn a_wrong_configuration_is_reported_before_missing_paths() {
        let run_with = async |flags: &[Flag<'_>]| {
            let context = Context { config: Config::load(&|_| None, flags).unwrap() };
            let Command { args } = Command::parse_from(["push"]);
            run(args, &context).await.unwrap_err().area()
        };
        assert_eq!(run_with(&[]).await, Area::Usage);
        assert_eq!(run_with(&[Flag::set("trusted-keys", "no key")]).await, Area::Config);
    }
}
