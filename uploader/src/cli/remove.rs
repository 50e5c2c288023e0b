//! `larder remove`: takes paths out of the bucket, whatever keeps them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::collect::{by, take_marking};
use super::context::Context;
use super::output::{self, Collections};
use super::whole_bucket::{digest, read_store_dir, records};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::bucket::Bucket;
use crate::format::pin::{Generation, PINS, effective};
use crate::session::{CollectorSession, HashPart};
use crate::survey::read_pins;
use crate::upkeep::collect::{Collector, Garbage, Inputs, Marking, NAR_GRACE, Purge, bury, lift, removal};
use crate::upkeep::inventory::{self, PathId, PathSet};
use crate::upkeep::rules::{Rules, Uses};

/// The number of attempts, while writers publish what refers to the paths.
const ATTEMPTS: usize = 3;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Store paths, their base names or hash parts, or links such as ./result
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Also delete the NARs, the listings and the logs at once and for good, and keep every writer from publishing the paths again
    #[arg(long)]
    purge: bool,
    /// Also remove the generations of pins that name the paths, or paths that refer to them
    #[arg(long)]
    unpin: bool,
    /// Permit paths again that were purged. Nothing is removed
    #[arg(long, conflicts_with_all = ["purge", "unpin"])]
    lift: bool,
    /// Remove. By default, larder only shows what would go
    #[arg(long, short = 'y')]
    yes: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// What becomes of pins that keep what goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pins {
    /// Nothing is removed.
    Refuse,
    /// They go, too.
    Remove,
    /// They stay: the paths may be pushed again.
    Leave,
}

/// How paths are removed.
#[derive(Clone, Copy, Debug)]
struct Manner {
    purge: bool,
    pins: Pins,
    json: bool,
}

impl Manner {
    fn of(args: &Args) -> Self {
        let pins = if args.unpin { Pins::Remove } else { Pins::Refuse };
        Self { purge: args.purge, pins, json: args.json }
    }
}

/// Takes paths out of the cache that clients cannot take anyway, and all that refers to them. Pins stay.
///
/// # Errors
/// As for a removal.
pub(super) async fn take_out(
    context: &Context,
    bucket: Arc<dyn Bucket>,
    options: &inventory::Options,
    digests: &[HashPart],
    json: bool,
) -> Result<Exit> {
    let manner = Manner { purge: false, pins: Pins::Leave, json };
    remove(manner, context, bucket, &inputs(options.clone()), digests).await?;
    // The paths are not in the cache any more.
    Ok(Exit::Partial)
}

fn inputs(inventory: inventory::Options) -> Inputs {
    Inputs {
        inventory,
        rules: Rules::default(),
        uses: Uses::default(),
        nar_grace: NAR_GRACE,
        foreign_writers: true,
        without_rules: true,
        refuse_pinned: false,
    }
}

/// Removes paths, and all that refers to them.
pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let bucket = context.bucket().await?;
    let store_dir = read_store_dir(&*bucket).await?;
    let digests = args.paths.iter().map(|path| digest(path, &store_dir)).collect::<Result<Vec<_>>>()?;
    if args.lift {
        return lift_all(&*bucket, &args, &digests).await;
    }
    let trusted = context.client_keys(&[]).unwrap_or_default();
    let manner = Manner::of(&args);
    let refuse_pinned = manner.pins == Pins::Refuse;
    let inputs = Inputs { refuse_pinned, ..inputs(inventory::Options { store_dir, trusted }) };
    if !args.yes {
        let mut records = records(&bucket.address(), &inputs.inventory);
        let marking = take_marking(&*bucket, &inputs, &mut *records).await?;
        let (_, garbage) = goes(&*bucket, &marking, &digests, manner).await?;
        check_pins(&*bucket, &marking, &garbage, manner).await?;
        show(manner, &marking, &garbage);
        if !args.json {
            output::say("`--yes` removes");
        }
        return Ok(Exit::Ok);
    }
    remove(manner, context, bucket, &inputs, &digests).await
}

async fn remove(
    manner: Manner,
    context: &Context,
    bucket: Arc<dyn Bucket>,
    inputs: &Inputs,
    digests: &[HashPart],
) -> Result<Exit> {
    let shown = Collections::new(manner.json);
    let mut records = records(&bucket.address(), &inputs.inventory);
    let store_dir = inputs.inventory.store_dir.as_str();
    let (keys, waits) = (context.keys()?, |others| shown.waits(others));
    let stop = async { _ = tokio::signal::ctrl_c().await };
    let claimed = CollectorSession::claim(bucket.clone(), store_dir, &keys, &waits, stop).await?;
    let Some(session) = claimed else { return Ok(Exit::Interrupted) };
    let work = async {
        let news = |news| shown.news(news);
        let collector = Collector { session: &session, inputs, news: &news };
        collector.take_over().await?;
        for attempt in 1..=ATTEMPTS {
            let marking = take_marking(&*bucket, inputs, &mut *records).await?;
            let (purge, garbage) = goes(&*bucket, &marking, digests, manner).await?;
            if garbage.paths.is_empty() && attempt > 1 {
                return Ok(true);
            }
            let pinned = check_pins(&*bucket, &marking, &garbage, manner).await?;
            show(manner, &marking, &garbage);
            if manner.purge {
                bury(&*session.fenced(), digests, &by()).await?;
            }
            session.fenced().delete_many(&pinned).await?;
            let ended = collector.remove(&marking, &garbage, &by(), purge, &mut *records).await?;
            shown.ended(&ended, false);
            if let Some(error) = ended.error {
                return Err(error);
            }
            if ended.spared == 0 {
                return Ok(true);
            }
            output::say("a writer has published what refers to the paths; removing again");
        }
        Ok::<_, Error>(false)
    };
    let done = tokio::select! {
        done = work => Some(done),
        _ = tokio::signal::ctrl_c() => None,
    };
    session.close().await;
    done.transpose()?.map_or_else(interrupted, |done| ended(manner, done))
}

fn interrupted() -> Result<Exit> {
    output::say("interrupted; the next collection ends what has begun. Remove again to be certain");
    Ok(Exit::Interrupted)
}

fn ended(manner: Manner, is_done: bool) -> Result<Exit> {
    if !is_done {
        return Err(Error::transient(Area::Bucket, "cannot remove the paths")
            .because("writers published what refers to them at each attempt")
            .hint("remove again"));
    }
    if manner.purge {
        caution(manner);
    }
    Ok(Exit::Ok)
}

/// What is beyond larder's reach.
fn caution(manner: Manner) {
    if !manner.json {
        output::say(
            "What is beyond larder's reach: proxies and content delivery networks before the bucket may still answer with what \
             they have stored; backups and replicas of the bucket have their own copies; each client that has taken the paths has them \
             in its store, and remembers for up to 30 days that the cache has them",
        );
    }
}

/// What goes with the paths. Paths that the bucket does not have get their tombstones all the same.
async fn goes(
    bucket: &dyn Bucket,
    marking: &Marking,
    digests: &[HashPart],
    manner: Manner,
) -> Result<(Option<Purge>, Garbage)> {
    let found: Vec<PathId> = digests.iter().filter_map(|digest| marking.catalog.find(digest)).collect();
    if found.is_empty() && !manner.purge {
        return Err(Error::permanent(Area::Bucket, "cannot remove the paths")
            .because("the bucket has none of them")
            .hint("`--purge` keeps writers from publishing them"));
    }
    let mut garbage = removal(&marking.catalog, &found);
    if manner.purge {
        let (purge, garbage) = Purge::of(bucket, &marking.catalog, digests, garbage).await?;
        return Ok((Some(purge), garbage));
    }
    garbage.objects.clear();
    Ok((None, garbage))
}

/// The keys of the generations of pins that keep what goes. Refuses to remove what is pinned, unless it is told to.
async fn check_pins(
    bucket: &dyn Bucket,
    marking: &Marking,
    garbage: &Garbage,
    manner: Manner,
) -> Result<Vec<String>> {
    let catalog = &marking.catalog;
    let going = PathSet::of(catalog.size(), garbage.paths.iter().copied());
    let keeps = |generation: &Generation| {
        generation
            .pin
            .store_paths()
            .any(|path| catalog.find(path.digest()).is_some_and(|id| going.contains(id)))
    };
    // Those that do not count any more may count again when a later one is removed.
    let (counting, ended) = effective(read_pins(bucket, PINS).await?);
    let keeping: Vec<_> = counting.iter().chain(&ended).filter(|generation| keeps(generation)).collect();
    if manner.pins == Pins::Leave {
        return Ok(Vec::new());
    }
    if manner.pins == Pins::Remove || keeping.is_empty() {
        return Ok(keeping.iter().map(|generation| generation.name.key(&generation.id)).collect());
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    keeping.iter().for_each(|generation| *names.entry(generation.name.as_str()).or_default() += 1);
    let names: Vec<_> = names.into_keys().map(|name| format!("`{name}`")).collect();
    Err(Error::permanent(Area::Bucket, "cannot remove the paths")
        .because(format!("the pins {} keep them, or what refers to them", names.join(", ")))
        .hint("`--unpin` also removes these generations of the pins"))
}

fn show(manner: Manner, marking: &Marking, garbage: &Garbage) {
    for id in &garbage.paths {
        let path = marking.catalog.basename(*id);
        match manner.json {
            true => output::data(&json!({ "type": "path", "path": path }).to_string()),
            false => output::data(&path),
        }
    }
    if !manner.json {
        output::say(&format!(
            "{} and {} go: {}",
            output::count(garbage.paths.len(), "path"),
            output::count(garbage.objects.len(), "other object"),
            output::size(garbage.bytes)
        ));
    }
}

async fn lift_all(bucket: &dyn Bucket, args: &Args, digests: &[HashPart]) -> Result<Exit> {
    for (digest, path) in digests.iter().zip(&args.paths) {
        let path = path.display();
        match lift(bucket, digest).await? {
            true => output::say(&format!("`{path}` may be pushed again, within five minutes")),
            false => output::say(&format!("`{path}` was not purged")),
        }
    }
    Ok(Exit::Ok)
}
