//! `larder recheck`: looks again at the paths that the agent has relied on.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;

use super::context::Context;
use super::output;
use crate::agent::{Queued, Recheck};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::format::signature::SecretKey;
use crate::format::standing::Judge;
use crate::session::admit;
use crate::store::{StoreLocation, StorePath};
use crate::survey::{Examiner, Finding, NarScan, PacedReader, recheck};

/// The number of paths that are examined before those among them that are damaged are queued.
const PORTION: usize = 512;
/// The number of paths about which the bucket may fail to tell before the recheck ends.
const MOST_ERRORS: usize = 8;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Send at most this number of requests a second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Show the paths that clients cannot take, and queue nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// What a recheck has found so far.
#[derive(Debug, Default)]
struct Totals {
    examined: usize,
    queued: usize,
    /// Damaged paths that larder does not mend by itself.
    left: usize,
    /// Paths that neither the store nor the bucket has any more.
    gone: usize,
    errors: Vec<Error>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let queue = context.make_queue(&store)?;
    let (bucket, keys) = (context.bucket().await?, context.keys()?);
    let mut trusted = context.options(false)?.rules.trusted_keys;
    trusted.extend(keys.iter().map(SecretKey::public));
    admit(&*bucket, store.store_dir.as_str()).await?;

    let rechecked = Arc::new(Recheck::new(queue, store.clone(), bucket.address()));
    let reader = PacedReader::new(bucket, args.rate);
    let judge = Judge { store_dir: &store.store_dir, keys: &keys, trusted: &trusted };
    let nars = NarScan::default();
    let examiner = Examiner { bucket: &reader, judge, adopt: &[], nars: &nars };
    let mut totals = Totals::default();
    for portion in rechecked.relied_on().chunks(PORTION) {
        look_at(&rechecked, examiner, portion.to_vec(), &args, &store, &mut totals).await?;
        if totals.errors.len() >= MOST_ERRORS {
            break;
        }
    }
    totals.end(&args)
}

/// Examines paths, and queues or reports those that clients cannot take.
async fn look_at(
    rechecked: &Arc<Recheck>,
    examiner: Examiner<'_>,
    paths: Vec<StorePath>,
    args: &Args,
    store: &StoreLocation,
    totals: &mut Totals,
) -> Result<()> {
    let asking = rechecked.clone();
    let with_infos = move || asking.infos(&paths).map(|infos| paths.into_iter().zip(infos).collect());
    let paths: Vec<_> = blocking(with_infos).await?;
    let (mut damaged, mut reasons, mut gone) = (Vec::new(), Vec::new(), HashSet::new());
    let mut findings = pin!(recheck(examiner, paths));
    while let Some((path, info, finding)) = findings.next().await {
        totals.examined += 1;
        match (finding, info) {
            (Finding::Sound, _) => {}
            (Finding::Absent, None) => drop(gone.insert(path)),
            (Finding::Absent, Some(_)) => {
                damaged.push((path, true));
                reasons.push("the bucket does not have it any more".to_owned());
            }
            (Finding::Damaged(reason), info) => {
                damaged.push((path, info.is_some()));
                reasons.push(reason);
            }
            (Finding::Unknown(error), _) => totals.errors.push(error),
        }
        if totals.errors.len() >= MOST_ERRORS {
            break;
        }
    }
    totals.gone += gone.len();
    let (deciding, dry_run) = (rechecked.clone(), args.dry_run);
    let settle = move || {
        let decided = deciding.decide(damaged)?;
        let again = decided.iter().filter(|(_, queued)| *queued == Queued::Yes);
        let again: Vec<_> = again.map(|(path, _)| path.clone()).collect();
        let mut unprotected = None;
        if !dry_run {
            deciding.forget(&gone)?;
            unprotected = deciding.enqueue(&again)?;
        }
        Ok((decided, unprotected))
    };
    let (decided, unprotected) = blocking(settle).await?;
    if let Some(error) = unprotected {
        output::warn(&format!("the paths are queued, but a garbage collection may delete them: {error}"));
    }
    for ((path, queued), reason) in decided.into_iter().zip(reasons) {
        let path = store.store_dir.render_path(&path);
        output::data(&format!("{path}: {reason} ({})", queued.words()));
        let count = if queued == Queued::Yes { &mut totals.queued } else { &mut totals.left };
        *count += 1;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::permanent(Area::General, "a thread of the recheck died").because(error))
    })
}

impl Totals {
    /// Prints the totals. Returns how the command ends.
    fn end(self, args: &Args) -> Result<Exit> {
        let Self { examined, queued, left, gone, errors } = self;
        let verb = if args.dry_run { "would queue" } else { "queued" };
        let mut text = format!("examined {}", output::count(examined, "path"));
        text += &match queued + left {
            0 => "; clients can take them all".to_owned(),
            damaged => format!("; clients cannot take {damaged} of them; {verb} {queued}"),
        };
        if gone > 0 {
            text += &format!("; {gone} are gone from the store and the bucket");
        }
        output::say(&text);
        let count = errors.len();
        if let Some(error) = errors.into_iter().next() {
            let paths = output::count(count, "path");
            return Err(Error::new(error.area(), error.retry(), format!("cannot examine {paths}"))
                .because(error)
                .hint("the next recheck examines them again"));
        }
        Ok(if left > 0 { Exit::Partial } else { Exit::Ok })
    }
}
