//! `larder repair`: mends what a verification finds.

use std::collections::HashSet;
use std::sync::Arc;

use nix_derivation::store_path::StoreDir;
use nix_narinfo::TrustedPublicKey;
use serde_json::json;

use super::context::Context;
use super::output::{self, Repairs};
use super::remove::take_out;
use super::transfer::{Remarks, no_store, open_source};
use super::verify::{self, Verified};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::bucket::Bucket;
use crate::format::signature::SecretKey;
use crate::push::Pusher;
use crate::store::{Daemon, StoreLocation};
use crate::upkeep::repair::{
    Examiner, Mended, Mending, Plan, Repairer, Source, TakeBack, decide, patients, take_back,
};
use crate::upkeep::verify::{Fault, Kind};

#[derive(Debug, clap::Args)]
// The group of the arguments of a verification has the same name.
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    verify: verify::Args,
    /// Another cache that may have what is missing: https://…, s3://… or file:///…. May be given several times
    #[arg(long, value_name = "URL")]
    from: Vec<String>,
    /// Also replace narinfos that no client can use and that only keys of this name have signed. May be given several times
    #[arg(long, value_name = "KEY")]
    adopt: Vec<String>,
    /// Mend. By default, larder only shows what it would do
    #[arg(long, short = 'y')]
    yes: bool,
    /// With --yes: take out of the cache what cannot be mended, and what refers to it, so that clients build instead of failing.
    /// `larder collect --undo` brings it back
    #[arg(long, requires = "yes")]
    take_back: bool,
    /// Only show what would be done
    #[arg(long, short = 'n', conflicts_with = "yes")]
    dry_run: bool,
}

/// What a repair works with.
struct Workshop {
    store: Option<Arc<StoreLocation>>,
    sources: Vec<Source>,
    keys: Vec<SecretKey>,
    adopt: Vec<String>,
    believed: Vec<TrustedPublicKey>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let bucket = context.bucket().await?;
    let keys = match context.keys() {
        Err(_) if !args.yes => Vec::new(),
        keys => keys?,
    };
    let mut verified = verify::verify(&args.verify, context, &*bucket).await?;
    let workshop = Workshop::open(&args, context, &verified.options.store_dir, keys).await?;
    let upstream = context.options(false)?.rules.upstream_keys;
    let missing = workshop.examiner(&*bucket, &verified).missing(&verified.catalog, &upstream).await;
    verified.missing.extend(missing);
    let patients = patients(&verified.catalog, &verified.faults, &verified.missing);
    let examiner = workshop.examiner(&*bucket, &verified);
    let examined = examiner.examine(&verified.catalog, patients).await?;
    let plans: Vec<_> = examined.into_iter().map(|examined| decide(examined, &workshop.adopt)).collect();
    let repairs = Repairs::new(args.verify.json, &workshop.sources);
    let others = others(&verified.faults);
    show_others(&others);
    if !args.yes {
        return Ok(show(&args, &repairs, &verified, &plans, &workshop.adopt, others.len()));
    }
    let (mended, interrupted) = match plans.is_empty() {
        true => (Vec::new(), false),
        false => mend(context, &bucket, &workshop, &verified, plans, &repairs).await?,
    };
    if interrupted {
        output::say("interrupted; what was mended stays, and the same command continues from there");
        return Ok(Exit::Interrupted);
    }
    let (exit, taken) = end(&args, &repairs, &verified, &mended, &workshop.adopt, others.len());
    if args.take_back && !taken.go.is_empty() {
        let digests: Vec<_> = taken.go.iter().map(|id| *verified.catalog.digest(*id)).collect();
        return take_out(context, bucket, &verified.options, &digests, args.verify.json).await;
    }
    verified.unknown.map_or(Ok(exit), Err)
}

impl Workshop {
    async fn open(
        args: &Args,
        context: &Context,
        store_dir: &StoreDir,
        keys: Vec<SecretKey>,
    ) -> Result<Self> {
        let reader = Arc::new(context.reader()?);
        let mut sources = Vec::new();
        for address in &args.from {
            sources.push(open_source(context, &reader, address, store_dir).await?);
        }
        let rules = context.options(false)?.rules;
        let mut believed = [rules.trusted_keys, rules.upstream_keys].concat();
        believed.extend(keys.iter().map(SecretKey::public));
        // What our own keys have signed is ours.
        let mut adopt = args.adopt.clone();
        adopt.extend(keys.iter().map(|key| key.name().to_owned()));
        Ok(Self { store: store(context, store_dir).await, sources, keys, adopt, believed })
    }

    fn examiner<'a>(&'a self, bucket: &'a dyn Bucket, verified: &'a Verified) -> Examiner<'a> {
        Examiner {
            bucket,
            store: self.store.as_ref(),
            sources: &self.sources,
            store_dir: &verified.options.store_dir,
            trusted: &verified.options.trusted,
            believed: &self.believed,
        }
    }
}

/// The local store, if there is one with this store directory.
async fn store(context: &Context, store_dir: &StoreDir) -> Option<Arc<StoreLocation>> {
    let store = context.store().and_then(|store| match store.store_dir == *store_dir {
        true => Ok(store),
        false => Err(Error::permanent(Area::Store, "it has another store directory than the bucket")),
    });
    let connected = match store {
        Ok(store) => {
            let asked = store.clone();
            let connect = move || Daemon::connect(&asked).map(drop);
            match tokio::task::spawn_blocking(connect).await {
                Ok(connected) => connected.map(|()| store),
                Err(error) => Err(Error::permanent(Area::General, "a thread died").because(error)),
            }
        }
        Err(error) => Err(error),
    };
    connected.map_err(|error| output::warn(&format!("the local store is not used: {error}"))).ok()
}

/// Mends. Returns what became of the paths, and whether the command was interrupted.
async fn mend(
    context: &Context,
    bucket: &Arc<dyn Bucket>,
    workshop: &Workshop,
    verified: &Verified,
    plans: Vec<Plan>,
    repairs: &Repairs<'_>,
) -> Result<(Vec<Mended>, bool)> {
    let mut options = context.options(false)?;
    options.adopt.clone_from(&workshop.adopt);
    options.trust_bucket = false;
    let store = workshop.store.clone().unwrap_or_else(|| no_store(&verified.options.store_dir));
    let pusher = Pusher::open(bucket.clone(), store, workshop.keys.clone(), options).await?;
    pusher.begin_sweep(None);
    let examiner = workshop.examiner(&**bucket, verified);
    let repairer = Repairer { pusher: &pusher, examiner, progress: Arc::new(Remarks) };
    let bar = output::Steps::new("paths");
    let (count, mut done) = (plans.len(), 0);
    let report = |plan: &Plan, mending: &Mending| {
        done += 1;
        bar.set(done, count);
        repairs.mending(plan, mending);
    };
    let mended = tokio::select! {
        mended = repairer.mend(&verified.catalog, plans, report) => Some(mended),
        _ = tokio::signal::ctrl_c() => None,
    };
    bar.remove();
    pusher.close().await;
    let interrupted = mended.is_none();
    Ok((mended.unwrap_or_default(), interrupted))
}

/// The faults that hurt clients or writers and that a repair does not mend.
fn others(faults: &[Fault]) -> Vec<&Fault> {
    let is_other = |fault: &&Fault| matches!(fault.kind, Kind::CacheInfo | Kind::Marker | Kind::NotInBucket);
    faults.iter().filter(is_other).collect()
}

fn show_others(others: &[&Fault]) {
    for fault in others {
        let text = if fault.text.is_empty() { fault.kind.title() } else { &fault.text };
        output::warn(&format!("{}: {text}; {}", fault.object, fault.kind.remedy()));
    }
}

/// Shows what a repair would do.
fn show(
    args: &Args,
    repairs: &Repairs<'_>,
    verified: &Verified,
    plans: &[Plan],
    adopt: &[String],
    others: usize,
) -> Exit {
    plans.iter().for_each(|plan| repairs.plan(plan));
    let hopeless = plans.iter().filter(|plan| plan.ways.is_empty());
    let left: HashSet<_> = hopeless.map(|plan| plan.examined.patient.digest).collect();
    let taken = taken(args, verified, &left, adopt);
    repairs.take_back(&verified.catalog, &taken);
    let mendable = plans.len() - left.len();
    summary(args, "plan-summary", mendable, left.len(), &taken);
    if !args.verify.json && !plans.is_empty() {
        let paths = output::count(plans.len(), "path");
        output::say(&format!("{paths} at fault; {mendable} can perhaps be mended; `--yes` does it"));
    }
    whole(plans.is_empty() && others == 0)
}

/// Shows what a repair has done.
fn end(
    args: &Args,
    repairs: &Repairs<'_>,
    verified: &Verified,
    mended: &[Mended],
    adopt: &[String],
    others: usize,
) -> (Exit, TakeBack) {
    let left = mended.iter().filter(|(_, mending)| matches!(mending, Mending::Left(_)));
    let left: HashSet<_> = left.map(|(plan, _)| plan.examined.patient.digest).collect();
    let taken = taken(args, verified, &left, adopt);
    repairs.take_back(&verified.catalog, &taken);
    summary(args, "summary", mended.len() - left.len(), left.len(), &taken);
    if !args.verify.json {
        let mut text = format!("mended {}", output::count(mended.len() - left.len(), "path"));
        if !left.is_empty() {
            text += &format!(
                "; {} cannot be mended, and {} with what refers to them {} taken back",
                left.len(),
                output::count(taken.go.len(), "path"),
                if args.take_back { "are being" } else { "should be (`--take-back`)" }
            );
        }
        output::say(&text);
    }
    (whole(left.is_empty() && others == 0), taken)
}

/// What should be taken back. If only some paths were looked at, nobody knows what else refers to them.
fn taken(args: &Args, verified: &Verified, left: &HashSet<[u8; 20]>, adopt: &[String]) -> TakeBack {
    match args.verify.is_of_all() {
        true => take_back(&verified.catalog, left, adopt),
        false => TakeBack::default(),
    }
}

fn summary(args: &Args, kind: &str, mended: usize, left: usize, taken: &TakeBack) {
    if args.verify.json {
        let line = json!({
            "type": kind,
            "mended": mended,
            "left": left,
            "takeBack": taken.go.len(),
            "stay": taken.stay.len(),
        });
        output::data(&line.to_string());
    }
}

fn whole(is_whole: bool) -> Exit {
    if is_whole { Exit::Ok } else { Exit::Partial }
}
