//! `larder recheck`: looks again at the paths that the agent has relied on.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;

use super::context::Context;
use super::output;
use crate::agent::{Damaged, Recheck, Remedy};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::format::path_info::PathInfo;
use crate::format::signature::SecretKey;
use crate::format::standing::Judge;
use crate::session::admit;
use crate::store::{StoreLocation, StorePath};
use crate::survey::{Examiner, Finding, PacedReader, Verifier, recheck};

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
    // The recheck signs nothing, so it reads no NAR.
    let verifier = Verifier::new(true);
    let examiner = Examiner { bucket: &reader, judge, adopt: &[], verifier: &verifier };
    let mut totals = Totals::default();
    for portion in rechecked.relied_on().chunks(PORTION) {
        let asking = rechecked.clone();
        let portion = portion.to_vec();
        let with_infos = move || asking.infos(&portion).map(|infos| portion.into_iter().zip(infos).collect());
        let (damaged, gone) = totals.examine(examiner, blocking(with_infos).await?).await;
        totals.settle(&rechecked, damaged, gone, &args, &store).await?;
        if totals.errors.len() >= MOST_ERRORS {
            break;
        }
    }
    totals.end(&args)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::permanent(Area::General, "a thread of the recheck died").because(error))
    })
}

impl Totals {
    /// Examines paths. Returns those that clients cannot take, and those that neither the store nor the bucket has.
    async fn examine(
        &mut self,
        examiner: Examiner<'_>,
        paths: Vec<(StorePath, Option<PathInfo>)>,
    ) -> (Vec<Damaged>, HashSet<StorePath>) {
        let (mut damaged, mut gone) = (Vec::new(), HashSet::new());
        let mut findings = pin!(recheck(examiner, paths));
        while let Some((path, info, finding)) = findings.next().await {
            self.examined += 1;
            let in_store = info.is_some();
            let reason = match finding {
                Finding::Sound => continue,
                Finding::Absent if in_store => "the bucket does not have it any more".to_owned(),
                Finding::Absent => {
                    gone.insert(path);
                    continue;
                }
                Finding::Damaged(reason) => reason,
                Finding::Unknown(error) => {
                    self.errors.push(error);
                    if self.errors.len() >= MOST_ERRORS {
                        break;
                    }
                    continue;
                }
            };
            damaged.push(Damaged { path, in_store, reason });
        }
        self.gone += gone.len();
        (damaged, gone)
    }

    /// Queues and reports the paths that clients cannot take. The paths that are gone leave the list.
    async fn settle(
        &mut self,
        rechecked: &Arc<Recheck>,
        damaged: Vec<Damaged>,
        gone: HashSet<StorePath>,
        args: &Args,
        store: &StoreLocation,
    ) -> Result<()> {
        let (settling, dry_run) = (rechecked.clone(), args.dry_run);
        let settle = move || {
            let decided = settling.decide(damaged)?;
            if dry_run {
                return Ok((decided, None));
            }
            let again = decided.iter().filter(|(_, remedy)| *remedy == Remedy::Queue);
            let again: Vec<_> = again.map(|(damaged, _)| damaged.path.clone()).collect();
            settling.forget(&gone)?;
            settling.enqueue(&again).map(|unprotected| (decided, unprotected))
        };
        let (decided, unprotected) = blocking(settle).await?;
        if let Some(error) = unprotected {
            output::warn(&format!("the paths are queued, but a garbage collection may delete them: {error}"));
        }
        for (Damaged { path, reason, .. }, remedy) in decided {
            let (count, follows) = match remedy {
                Remedy::Queue if dry_run => (&mut self.queued, "would be queued again"),
                Remedy::Queue => (&mut self.queued, "queued again"),
                Remedy::Parked => (&mut self.left, "parked, see `larder status`"),
                Remedy::NotInStore => {
                    (&mut self.left, "not in this store, so that larder cannot push it again")
                }
            };
            *count += 1;
            output::data(&format!("{}: {reason} ({follows})", store.store_dir.render_path(&path)));
        }
        Ok(())
    }

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
            text += &format!("; gone from the store and the bucket: {gone}");
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
