//! `larder copy` and `larder promote`: paths from another cache.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_derivation::store_path::StoreDir;
use serde_json::json;

use super::context::Context;
use super::output;
use super::whole_bucket::{digest, read_store_dir};
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::bucket::{Address, Bucket};
use crate::format::path_info::PathInfo;
use crate::http::PublicReader;
use crate::push::decide::Rules;
use crate::push::{Outcome, OutcomeKind, Progress, Pusher};
use crate::session::HashPart;
use crate::store::{DaemonAddress, StoreLocation};
use crate::upkeep::inventory;
use crate::upkeep::repair::Source;
use crate::upkeep::transfer::{
    Carrier, Carry, Decided, Surveyor, Upstream, listed, order, present_roots, there,
};

#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// Store paths, their base names or hash parts, or links such as ./result; what they refer to comes with them
    paths: Vec<PathBuf>,
    /// The public key of the other cache, NAME:BASE64: larder signs what this key has signed. May be given several times
    #[arg(long, value_name = "KEY")]
    trust_source: Vec<String>,
    /// Ask this cache about paths that the other cache and the bucket lack, because clients take them from upstream. May be
    /// given several times
    #[arg(long, value_name = "URL", default_value = "https://cache.nixos.org")]
    upstream: Vec<String>,
    /// Only show what would be done
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct CopyArgs {
    /// The other cache: https://…, s3://… or file:///…
    #[arg(long, value_name = "URL")]
    from: String,
    #[command(flatten)]
    wanted: Wanted,
    /// Copy all paths of the other cache, which must be a bucket or a directory
    #[arg(long, conflicts_with_all = ["paths", "closure_of"])]
    all: bool,
    /// Copy the paths that this file names, one on each line, and what they refer to; - for standard input
    #[arg(long, value_name = "FILE")]
    closure_of: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct PromoteArgs {
    /// The staging prefix: another prefix of the same bucket, or the address of another bucket on the same server
    #[arg(long, value_name = "PREFIX")]
    from: String,
    #[command(flatten)]
    wanted: Wanted,
}

/// Copies paths from another cache.
pub(super) async fn copy(args: CopyArgs, context: &Context) -> Result<Exit> {
    let CopyArgs { from, wanted, all, closure_of } = args;
    let bucket = context.bucket().await?;
    let store_dir = read_store_dir(&*bucket).await?;
    let reader = Arc::new(context.reader()?);
    let source = open_source(context, &reader, &from, &store_dir).await?;
    let mut roots = named(&wanted.paths, &store_dir)?;
    if let Some(file) = &closure_of {
        roots.extend(named(&read_paths(file)?, &store_dir)?);
    }
    if all {
        roots = listed(&source).await?;
    } else if roots.is_empty() {
        return Err(Error::permanent(Area::Usage, "no path to copy")
            .hint("name paths, `--closure-of FILE`, or `--all` for a bucket or a directory"));
    }
    transfer(context, bucket, &source, roots, &wanted, (Carry::Through, Vec::new())).await
}

/// Promotes staged paths.
pub(super) async fn promote(args: PromoteArgs, context: &Context) -> Result<Exit> {
    let PromoteArgs { from, wanted } = args;
    let bucket = context.bucket().await?;
    let store_dir = read_store_dir(&*bucket).await?;
    let address = match from.contains("://") {
        true => from,
        false => context.config.bucket()?.parse::<Address>()?.with_prefix(&from)?.to_string(),
    };
    if wanted.trust_source.is_empty() {
        return Err(Error::permanent(Area::Usage, "no key of the staged builds is named")
            .because("what becomes trusted must be signed by a key that somebody names")
            .hint("`--trust-source NAME:BASE64` names the public key of the staging prefix"));
    }
    let reader = Arc::new(context.reader()?);
    let source = open_source(context, &reader, &address, &store_dir).await?;
    let roots = match wanted.paths.is_empty() {
        true => listed(&source).await?,
        false => named(&wanted.paths, &store_dir)?,
    };
    let keys = context.public_keys(&wanted.trust_source)?;
    let drop = keys.iter().map(|key| key.name.to_string()).collect();
    transfer(context, bucket, &source, roots, &wanted, (Carry::Within, drop)).await
}

async fn transfer(
    context: &Context,
    bucket: Arc<dyn Bucket>,
    source: &Source,
    roots: Vec<HashPart>,
    wanted: &Wanted,
    (carry, drop): (Carry, Vec<String>),
) -> Result<Exit> {
    let keys = context.keys()?;
    let mut options = context.options(false)?;
    options.rules.trusted_keys.extend(context.public_keys(&wanted.trust_source)?);
    let store_dir = read_store_dir(&*bucket).await?;
    let upstream = upstream(context, &options.rules, wanted, &store_dir)?;
    let pusher = Pusher::open(bucket, no_store(&store_dir), keys, options).await?;
    let surveyor = Surveyor { pusher: &pusher, source, upstream: &upstream, keep: !wanted.dry_run };
    let done = tokio::select! {
        done = carry_all(&surveyor, roots, wanted, carry, &drop) => Some(done),
        _ = tokio::signal::ctrl_c() => None,
    };
    pusher.close().await;
    match done {
        Some(done) => done,
        None => {
            output::say(
                "interrupted; the bucket keeps what has arrived, and the same command continues from there",
            );
            Ok(Exit::Interrupted)
        }
    }
}

/// The caches to ask about what the bucket leaves out by the rules.
fn upstream(context: &Context, rules: &Rules, wanted: &Wanted, store_dir: &StoreDir) -> Result<Upstream> {
    let keys = rules.upstream_keys.clone();
    // A full mirror leaves nothing out, and without keys no answer would count.
    let is_asked = !rules.push_upstream && !keys.is_empty();
    let urls = if is_asked { wanted.upstream.clone() } else { Vec::new() };
    let options = inventory::Options { store_dir: store_dir.clone(), trusted: keys };
    Ok(Upstream { reader: Arc::new(context.reader()?), urls, options })
}

async fn carry_all(
    surveyor: &Surveyor<'_>,
    roots: Vec<HashPart>,
    wanted: &Wanted,
    carry: Carry,
    drop: &[String],
) -> Result<Exit> {
    let Surveyor { pusher, source, .. } = *surveyor;
    let since = Moment::now();
    let bar = output::Steps::new("paths");
    let found = surveyor.ask(roots.clone(), &|done| bar.set(done, done)).await;
    bar.remove();
    let found = found?;
    let (mut there, present) = (there(&found), present_roots(&found, &roots));
    let decided = order(found);
    let mut totals = Totals { left: decided.left.len() + decided.differs.len(), ..Totals::default() };
    show_left(&decided, wanted.json);
    if wanted.dry_run {
        for (claim, _) in &decided.todo {
            line(wanted.json, &claim.info, "planned", None);
        }
        return Ok(totals.end(&decided, wanted));
    }
    // What is called present here stays for a while, whatever the rules say. What is carried is young.
    pusher.session().record_needs(&present, &[], since).await?;
    let carrier = Carrier { pusher, source, carry, drop, progress: Arc::new(Remarks) };
    let bar = output::Steps::new("paths");
    let (count, mut done) = (decided.todo.len(), 0);
    let mut derivers = BTreeMap::new();
    carrier
        .carry(&decided, |info, outcome| {
            done += 1;
            bar.set(done, count);
            totals.take(info, outcome, wanted.json);
            if outcome.kind().is_in_bucket() {
                there.insert(*info.path.digest());
            }
            if let (Outcome::Pushed { .. }, Some(deriver)) = (outcome, &info.deriver) {
                derivers.insert(deriver.clone(), (*info.path).clone());
            }
        })
        .await;
    bar.remove();
    carrier.carry_realisations(&|path| there.contains(path), since).await?;
    carrier.carry_logs(&derivers, since).await;
    Ok(totals.end(&decided, wanted))
}

#[derive(Debug, Default)]
struct Totals {
    carried: usize,
    sent: u64,
    left: usize,
}

impl Totals {
    fn take(&mut self, info: &PathInfo, outcome: &Outcome, json: bool) {
        if let Outcome::Pushed { sent, .. } = outcome {
            self.sent += sent;
        }
        match outcome {
            Outcome::Differs { .. } => self.left += 1,
            outcome if outcome.is_available() => self.carried += 1,
            _ => self.left += 1,
        }
        let is_bad = matches!(outcome.kind(), OutcomeKind::Differs) || !outcome.is_available();
        if json || is_bad {
            let reason = match outcome {
                Outcome::Differs { signer } => {
                    Some(format!("the bucket has other contents, which `{signer}` has signed"))
                }
                outcome => outcome.reason(),
            };
            line(json, info, outcome.kind().word(), reason.as_deref());
        }
    }

    fn end(&self, decided: &Decided, wanted: &Wanted) -> Exit {
        let Self { carried, sent, left, .. } = self;
        let planned = if wanted.dry_run { decided.todo.len() } else { *carried };
        if wanted.json {
            let line = json!({
                "type": "summary", "copied": planned, "present": decided.present, "left": left, "sentBytes": sent,
                "dryRun": wanted.dry_run,
            });
            output::data(&line.to_string());
        } else {
            let would = if wanted.dry_run { "would be " } else { "" };
            output::say(&format!(
                "{} {would}copied ({} sent); {} were there already, {left} stay",
                output::count(planned, "path"),
                output::size(*sent),
                decided.present,
            ));
        }
        if *left > 0 { Exit::Partial } else { Exit::Ok }
    }
}

fn show_left(decided: &Decided, json: bool) {
    let differs = decided.differs.iter().map(|(digest, signer)| {
        (digest, "differs", format!("the bucket has other contents, which `{signer}` has signed"))
    });
    let left = decided.left.iter().map(|(digest, reason)| (digest, "left", reason.clone()));
    for (digest, word, reason) in left.chain(differs) {
        let hash = nix_derivation::nixbase32::encode(digest);
        match json {
            true => output::data(
                &json!({ "type": "path", "hashPart": hash, "outcome": word, "reason": reason }).to_string(),
            ),
            false => output::warn(&format!("`{hash}` stays where it is: {reason}")),
        }
    }
}

fn line(json: bool, info: &PathInfo, word: &str, reason: Option<&str>) {
    let path = info.path.to_basename();
    match (json, reason) {
        (true, _) => output::data(
            &json!({ "type": "path", "path": path.to_string(), "outcome": word, "reason": reason })
                .to_string(),
        ),
        (false, Some(reason)) => output::warn(&format!("{path}: {word}: {reason}")),
        (false, None) => output::data(&path.to_string()),
    }
}

fn named(paths: &[PathBuf], store_dir: &StoreDir) -> Result<Vec<HashPart>> {
    paths.iter().map(|path| digest(path, store_dir)).collect()
}

/// The paths in a file, one on each line.
fn read_paths(file: &Path) -> Result<Vec<PathBuf>> {
    let cannot =
        |error| Error::permanent(Area::Usage, format!("cannot read `{}`", file.display())).because(error);
    let read: Box<dyn BufRead> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(BufReader::new(std::fs::File::open(file).map_err(cannot)?)),
    };
    let lines = read.lines().map(|line| line.map_err(cannot));
    let lines = lines.collect::<Result<Vec<_>>>()?;
    Ok(lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).map(PathBuf::from).collect())
}

/// Opens another cache, and checks that it is for the store directory.
///
/// # Errors
/// It cannot be read, or is for another store directory.
pub(super) async fn open_source(
    context: &Context,
    reader: &Arc<PublicReader>,
    address: &str,
    store_dir: &StoreDir,
) -> Result<Source> {
    let source = match address.starts_with("http://") || address.starts_with("https://") {
        true => Source::Cache { url: address.trim_end_matches('/').to_owned(), reader: reader.clone() },
        false => Source::Bucket(context.bucket_at(address).await?),
    };
    source.check(store_dir).await?;
    Ok(source)
}

/// Stands for the local store on a machine without one.
pub(super) fn no_store(store_dir: &StoreDir) -> Arc<StoreLocation> {
    Arc::new(StoreLocation {
        store_dir: store_dir.clone(),
        real_dir: store_dir.as_str().into(),
        state_dir: "/nonexistent".into(),
        log_dir: "/nonexistent".into(),
        daemon: DaemonAddress::Socket("/nonexistent/socket".into()),
    })
}

/// Passes on the messages of a transfer or a repair for people.
pub(super) struct Remarks;

impl Progress for Remarks {
    fn remark(&self, text: &str) {
        output::say(text);
    }
}
