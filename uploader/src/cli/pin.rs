//! `larder pin`, `larder pins`, `larder unpin`: what stays in the bucket.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::context::{Context, host_name};
use super::output;
use super::whole_bucket::{digest, read_store_dir};
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::base::span::{parse_span, span_text};
use crate::format::pin::{Generation, PINS, Pin, PinName, effective};
use crate::session::Session;
use crate::survey::read_pins;
use crate::upkeep::inventory::{self, Catalog, take_closure};
use crate::upkeep::verify::structure;

/// How a new generation of a pin ends.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Lifetime {
    /// Only the N youngest generations of the pin stay
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_last: Option<u32>,
    /// The generation ends after this time, such as 90d
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    until: Option<Duration>,
}

impl Lifetime {
    /// A generation with these paths, by their base names.
    pub(super) fn pin(&self, paths: Vec<String>) -> Pin {
        let host = host_name();
        Pin { paths, keep_last: self.keep_last, seconds: self.until.map(|until| until.as_secs()), by: host }
    }

    /// Whether no flag was given.
    pub(super) fn is_unset(&self) -> bool {
        self.keep_last.is_none() && self.until.is_none()
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct PinArgs {
    /// The name of the pin, such as system/laptop. If the pin exists, it gets another generation
    #[arg(value_parser = PinName::parse)]
    name: PinName,
    /// Paths that the bucket has: store paths, their base names, or links such as ./result
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    lifetime: Lifetime,
}

/// Adds a generation to a pin.
pub(super) async fn pin(args: PinArgs, context: &Context) -> Result<Exit> {
    let keys = context.keys()?;
    let trusted = context.client_keys(&[])?;
    let bucket = context.bucket().await?;
    let store_dir = read_store_dir(&*bucket).await?;
    let roots = args.paths.iter().map(|path| digest(path, &store_dir)).collect::<Result<Vec<_>>>()?;
    let session = Session::open(bucket.clone(), store_dir.as_str(), &keys, &trusted).await?;
    let options = inventory::Options { store_dir, trusted };
    let pinned = async {
        session.clear(roots.iter()).await?;
        let since = Moment::now();
        let catalog = take_closure(&*bucket, &options, roots.iter().copied()).await?;
        let paths = usable(&catalog, &roots, &args)?;
        let count = paths.len();
        let id = session.pin(&args.name, &args.lifetime.pin(paths), since).await?;
        Ok::<_, Error>((id, count, catalog.paths()))
    }
    .await;
    session.close().await;
    let (id, paths, closure) = pinned?;
    let (paths, closure) = (output::count(paths, "path"), output::count(closure, "path"));
    output::say(&format!("pinned {paths}, {closure} with what they refer to, as `{}`", args.name));
    output::data(&id);
    Ok(Exit::Ok)
}

/// The base names of the paths. A pin of a path that no client can take would promise too much.
fn usable(catalog: &Catalog, roots: &[[u8; 20]], args: &PinArgs) -> Result<Vec<String>> {
    let cannot = |path: &PathBuf| Error::permanent(Area::Bucket, format!("cannot pin `{}`", path.display()));
    let found = structure(catalog, &HashSet::new());
    let mut names = Vec::new();
    for (root, path) in roots.iter().zip(&args.paths) {
        let Some(id) = catalog.find(root) else {
            return Err(cannot(path)
                .because("the bucket does not have it")
                .hint("push it first, or push and pin it at once with `larder push --pin NAME`"));
        };
        let closure = catalog.closure([id]);
        let mut faults = found.faults.iter().zip(&found.faulty);
        if let Some((fault, _)) = faults.find(|(_, id)| closure.contains(**id)) {
            return Err(cannot(path)
                .because(format!("clients cannot take `{}`: {}", fault.object, fault.text))
                .hint("`larder verify` shows all faults, and `larder repair` mends them"));
        }
        names.push(catalog.basename(id));
    }
    Ok(names)
}

#[derive(Debug, clap::Args)]
pub(super) struct PinsArgs {
    /// Only pins whose names begin with this text
    #[arg(default_value = "")]
    prefix: String,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// Lists the pins.
pub(super) async fn pins(args: PinsArgs, context: &Context) -> Result<Exit> {
    let bucket = context.bucket().await?;
    let all = read_pins(&*bucket, PINS).await?;
    let (counting, ended) = effective(all);
    let wanted = |generation: &&Generation| generation.name.as_str().starts_with(&args.prefix);
    if args.json {
        let rows = counting.iter().map(|one| (one, true)).chain(ended.iter().map(|one| (one, false)));
        rows.filter(|(generation, _)| wanted(generation)).for_each(|(generation, counts)| {
            let Generation { name, id, age, pin } = generation;
            let line = json!({
                "type": "generation", "pin": name.as_str(), "generation": id, "counts": counts,
                "ageSeconds": age.map(|age| age.as_secs()), "paths": pin.paths, "keepLast": pin.keep_last,
                "endsAfterSeconds": pin.seconds, "by": pin.by,
            });
            output::data(&line.to_string());
        });
        return Ok(Exit::Ok);
    }
    let mut by_name: BTreeMap<&PinName, Vec<&Generation>> = BTreeMap::new();
    for generation in counting.iter().filter(wanted) {
        by_name.entry(&generation.name).or_default().push(generation);
    }
    for (name, generations) in by_name {
        let keep = generations.first().and_then(|youngest| youngest.pin.keep_last);
        let keep = keep.map(|most| format!(", the last {most} stay")).unwrap_or_default();
        output::data(&format!("{name} ({}{keep})", output::count(generations.len(), "generation")));
        for Generation { id, age, pin, .. } in generations {
            let age = age.map_or("of unknown age".into(), |age| format!("{} old", span_text(age)));
            let ends = pin
                .seconds
                .map(|seconds| format!(", ends at the age of {}", span_text(Duration::from_secs(seconds))));
            let by = if pin.by.is_empty() { String::new() } else { format!(", by {}", pin.by) };
            output::data(&format!("  {id} {age}{}{by}: {}", ends.unwrap_or_default(), pin.paths.join(" ")));
        }
    }
    Ok(Exit::Ok)
}

#[derive(Debug, clap::Args)]
pub(super) struct UnpinArgs {
    /// The name of the pin
    #[arg(value_parser = PinName::parse)]
    name: PinName,
    /// Only this generation, as `larder pins` shows it
    #[arg(long, value_name = "ID")]
    generation: Option<String>,
}

/// Removes a pin or a generation.
pub(super) async fn unpin(args: UnpinArgs, context: &Context) -> Result<Exit> {
    let bucket = context.bucket().await?;
    let mut keys: Vec<_> = read_pins(&*bucket, &args.name.prefix())
        .await?
        .into_iter()
        .filter(|generation| generation.name == args.name)
        .filter(|generation| args.generation.as_ref().is_none_or(|wanted| *wanted == generation.id))
        .map(|generation| args.name.key(&generation.id))
        .collect();
    if keys.is_empty() {
        return Err(Error::permanent(Area::Usage, format!("the bucket has no such pin: `{}`", args.name))
            .hint("`larder pins` lists the pins and their generations"));
    }
    keys.sort();
    for key in &keys {
        bucket.delete(key).await?;
    }
    let generations = output::count(keys.len(), "generation");
    output::say(&format!(
        "removed {generations} of `{}`; the paths stay until they are collected",
        args.name
    ));
    Ok(Exit::Ok)
}
