//! `larder verify`: is the bucket whole?

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use larder_hook::settings::process_environment;
use larder_hook::time::now;
use rand_core::{OsRng, RngCore};
use serde_json::json;

use super::context::Context;
use super::output;
use super::whole_bucket::{digest, store_dir, take_inventory};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::base::span::parse_span;
use crate::bucket::Bucket;
use crate::config::Size;
use crate::format::object_keys::{NARS, narinfo_of};
use crate::survey::ByteRate;
use crate::upkeep::inventory::{self, AbsentId, Catalog, cache_directory};
use crate::upkeep::verify::{
    Fault, Kind, Portion, ReadNar, Resume, Severity, Upstream, ask_upstream, count_affected, leftovers,
    missing_by_local_store, read_contents, read_frame, structure,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these store paths and all that they refer to: paths, their base names or hash parts, or links such as ./result
    paths: Vec<PathBuf>,
    /// A public key that clients trust, NAME:BASE64. May be given several times. By default, the keys of the configuration
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Also download, decompress and hash NARs: all, or a part such as 5% or 1/30, which is another one each day
    #[arg(long, value_name = "PART", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = Portion::parse)]
    data: Option<Portion>,
    /// Of these NARs, only those that were written in this time, such as 7d
    #[arg(long, value_name = "TIME", requires = "data", value_parser = parse_span)]
    data_since: Option<Duration>,
    /// Download at most so many bytes of NARs a second, such as 20M
    #[arg(long, value_name = "BYTES", requires = "data", value_parser = Size::parse)]
    max_rate: Option<Size>,
    /// Also ask this cache whether it has the paths that were left out of the bucket because upstream has them. May be given
    /// several times
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true, default_missing_value = "https://cache.nixos.org")]
    upstream: Vec<String>,
    /// Show all faults of each kind, not only ten
    #[arg(long)]
    all: bool,
    /// Print JSON lines
    #[arg(long)]
    pub(super) json: bool,
}

impl Args {
    /// Whether the whole bucket is looked at.
    pub(super) fn is_of_all(&self) -> bool {
        self.paths.is_empty()
    }
}

/// What a verification has found.
pub(super) struct Verified {
    pub(super) catalog: Catalog,
    pub(super) faults: Vec<Fault>,
    /// The paths that narinfos refer to and that are neither in the bucket nor upstream's.
    pub(super) missing: HashSet<AbsentId>,
    /// The store directory of the bucket, and the keys that clients trust.
    pub(super) options: inventory::Options,
    /// The error that kept a part of the bucket, or upstream, unknown.
    pub(super) unknown: Option<Error>,
    affected: usize,
    left_out: usize,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let bucket = context.bucket().await?;
    let verified = verify(&args, context, &*bucket).await?;
    show(&args, &verified.faults);
    let exit = end(&args, &verified);
    verified.unknown.map_or(Ok(exit), Err)
}

/// Finds the faults of the bucket, as far as the arguments ask.
pub(super) async fn verify(args: &Args, context: &Context, bucket: &dyn Bucket) -> Result<Verified> {
    let trusted = context.client_keys(&args.key)?;
    let frame = read_frame(bucket).await?;
    let store_dir = match store_dir(bucket, frame.store_dir) {
        Ok(store_dir) => store_dir,
        Err(error) => {
            show(args, &frame.faults);
            return Err(error);
        }
    };
    let options = inventory::Options { store_dir, trusted };
    let mut verified = match &args.paths[..] {
        [] => verify_all(args, bucket, options, context).await?,
        paths => verify_paths(args, bucket, options, context, paths).await?,
    };
    verified.faults.splice(0..0, frame.faults);
    if let Some(portion) = args.data {
        let unknown = verify_contents(args, portion, bucket, &mut verified).await;
        verified.unknown = verified.unknown.or(unknown);
        verified.affected = count_affected(&verified.catalog, &mut verified.faults);
    }
    Ok(verified)
}

async fn verify_all(
    args: &Args,
    bucket: &dyn Bucket,
    options: inventory::Options,
    context: &Context,
) -> Result<Verified> {
    // Not every server lists uploads. Those that began while the bucket was read have a writer that lives.
    let before = bucket.unfinished(NARS).await.unwrap_or_default();
    let catalog = take_inventory(bucket, &options).await?;
    let mut unfinished = bucket.unfinished(NARS).await.unwrap_or_default();
    unfinished.retain(|upload| before.contains(upload));
    let others = leftovers(&catalog, &unfinished);
    judge(args, options, catalog, others, context).await
}

/// Reads NARs, and adds their faults. Returns the error that kept some of them unknown.
async fn verify_contents(
    args: &Args,
    portion: Portion,
    bucket: &dyn Bucket,
    verified: &mut Verified,
) -> Option<Error> {
    let catalog = &verified.catalog;
    let mut wanted = portion.of(catalog, args.data_since, now(), OsRng.next_u64());
    let part = portion.name(now()).filter(|_| args.data_since.is_none() && args.paths.is_empty());
    let mut resume = part
        .zip(cache_directory(process_environment))
        .map(|(part, directory)| Resume::open(&directory, &bucket.address(), &part, catalog, now()));
    let all = wanted.len();
    if let Some(resume) = &resume {
        wanted.retain(|nar| !resume.has(catalog, *nar));
    }
    if wanted.len() < all {
        let known = output::count(all - wanted.len(), "NAR");
        output::say(&format!("{known} were read by an earlier run, which was interrupted"));
    }
    let rate = args.max_rate.map(|Size(bytes)| ByteRate::new(bytes));
    let bar = output::Steps::new("NARs");
    let (count, mut read, mut bytes) = (wanted.len(), 0, 0);
    let (mut faults, mut errors) = (Vec::new(), Vec::new());
    read_contents(bucket, catalog, wanted, rate.as_ref(), |nar: ReadNar| {
        match nar.faults {
            Ok(found) if found.is_empty() => {
                resume.iter_mut().for_each(|resume| resume.add(catalog, nar.nar));
            }
            Ok(found) => faults.extend(found),
            Err(error) => errors.push(error),
        }
        (read, bytes) = (read + 1, bytes + nar.bytes);
        bar.set(read, count);
    })
    .await;
    bar.remove();
    output::say(&format!("read {} ({})", output::count(read, "NAR"), output::size(bytes)));
    verified.faults.extend(faults);
    if errors.is_empty() {
        resume.into_iter().for_each(Resume::finish);
    }
    let unread = errors.len() + count - read;
    let first = errors.into_iter().next()?;
    let text = format!("the contents of {} are unknown", output::count(unread, "NAR"));
    Some(
        Error::new(first.area(), first.retry(), text)
            .because(first)
            .hint("verify again: sound NARs are not read twice"),
    )
}

async fn verify_paths(
    args: &Args,
    bucket: &dyn Bucket,
    options: inventory::Options,
    context: &Context,
    paths: &[PathBuf],
) -> Result<Verified> {
    let roots = paths.iter().map(|path| digest(path, &options.store_dir)).collect::<Result<Vec<_>>>()?;
    let catalog = inventory::take_closure(bucket, &options, roots.iter().copied()).await?;
    let absent = paths.iter().zip(&roots).filter(|(_, root)| catalog.find(root).is_none());
    let absent = absent.map(|(path, root)| {
        let text = format!("`{}` does not exist", narinfo_of(root));
        Fault::new(Kind::NotInBucket, path.display().to_string(), text)
    });
    let absent = absent.collect();
    judge(args, options, catalog, absent, context).await
}

/// Judges the paths of the catalog, with what upstream, or else the local store, knows of absent references.
async fn judge(
    args: &Args,
    options: inventory::Options,
    catalog: Catalog,
    mut faults: Vec<Fault>,
    context: &Context,
) -> Result<Verified> {
    let (catalog, missing, unknown) = if args.upstream.is_empty() {
        let (catalog, missing) = missing(catalog, context).await?;
        (catalog, missing, None)
    } else {
        let Upstream { missing, errors } = missing_upstream(args, &options, &catalog, context).await?;
        let count = errors.len();
        let unknown = errors.into_iter().next().map(|first| {
            let text = format!("upstream has not answered {}", output::count(count, "question"));
            Error::new(first.area(), first.retry(), text).because(first).hint("verify again later")
        });
        (catalog, missing, unknown)
    };
    let found = structure(&catalog, &missing);
    faults.extend(found.faults);
    let (affected, left_out) = (found.affected, found.left_out.len());
    Ok(Verified { catalog, faults, missing, options, unknown, affected, left_out })
}

/// The absent references that upstream does not have.
async fn missing_upstream(
    args: &Args,
    options: &inventory::Options,
    catalog: &Catalog,
    context: &Context,
) -> Result<Upstream> {
    let keys = context.options(false)?.rules.upstream_keys;
    let options = inventory::Options { store_dir: options.store_dir.clone(), trusted: keys };
    let (reader, absent) = (context.reader()?, catalog.absent_ids().collect());
    let bar = output::Steps::new("questions");
    let progress = |done, all| bar.set(done, all);
    let found = ask_upstream(&reader, &args.upstream, &options, catalog, absent, progress).await;
    bar.remove();
    Ok(found)
}

/// The absent references that are not upstream's. A machine without a store knows nothing of them.
async fn missing(catalog: Catalog, context: &Context) -> Result<(Catalog, HashSet<AbsentId>)> {
    let keys = context.options(false).map(|options| options.rules.upstream_keys);
    let (Ok(keys), Ok(store)) = (keys, context.store()) else { return Ok((catalog, HashSet::new())) };
    let asked = tokio::task::spawn_blocking(move || {
        let missing = missing_by_local_store(&store, &keys, &catalog);
        (catalog, missing)
    });
    let (catalog, missing) = asked.await.map_err(|error| {
        Error::permanent(Area::General, "the thread that asks the local store died").because(error)
    })?;
    let count = catalog.absent_ids().count();
    let missing = missing.unwrap_or_else(|error| {
        output::say(&format!(
            "{} outside of the bucket are unknown, because the local store does not tell: {error}",
            output::count(count, "reference")
        ));
        HashSet::new()
    });
    Ok((catalog, missing))
}

fn show(args: &Args, faults: &[Fault]) {
    match args.json {
        true => faults.iter().for_each(output::fault_as_json),
        false => output::show_faults(faults, args.all),
    }
}

/// Prints the totals. Returns how the command ends.
fn end(args: &Args, verified: &Verified) -> Exit {
    let Verified { catalog, affected, left_out, faults, .. } = verified;
    let with = |severity| faults.iter().filter(|fault| fault.kind.severity() == severity).count();
    let (clients, writers, waste) = (with(Severity::Clients), with(Severity::Writers), with(Severity::Waste));
    let nar_bytes: u64 = catalog.nars().iter().map(|(_, object)| object.size).sum();
    if args.json {
        let summary = json!({
            "type": "summary",
            "paths": catalog.paths(),
            "nars": catalog.nars().len(),
            "narObjectBytes": nar_bytes,
            "faults": { "clients": clients, "writers": writers, "waste": waste },
            "affected": affected,
            "leftOut": left_out,
        });
        output::data(&summary.to_string());
    } else {
        let paths = output::count(catalog.paths(), "path");
        let nars = output::count(catalog.nars().len(), "NAR");
        output::say(&format!("{paths}, {nars} ({})", output::size(nar_bytes)));
        if *left_out > 0 {
            output::say(&format!(
                "{} that they refer to should be upstream's",
                output::count(*left_out, "path")
            ));
        }
        output::say(&match (clients + writers, *affected) {
            (0, _) => "clients can take every path".to_owned(),
            (wrong, 0) => format!("faults that hurt clients or writers: {wrong}"),
            (wrong, affected) => format!(
                "faults that hurt clients or writers: {wrong}; paths that cannot be taken because of them: {affected}"
            ),
        });
    }
    let wrong = faults.iter().any(|fault| fault.kind.severity().is_wrong());
    if wrong { Exit::Partial } else { Exit::Ok }
}
