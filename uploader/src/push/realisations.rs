//! The realisations of what a push has put into the bucket: clients find an output of a floating content-addressed derivation by
//! its derivation only through them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use futures::{StreamExt, stream};
use nix_derivation::StorePath;

use super::decide::Request;
use super::outcome::Report;
use super::progress::Progress;
use super::publish::Publisher;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result, Retry};
use crate::base::lock::lock;
use crate::format::realisation::Realisation;
use crate::session::FACT_AGE;
use crate::store::{Closure, Derivations, StoreLocation};

/// The number of realisations that are published at the same time.
const CONCURRENT: usize = 16;

/// A derivation of which a path of the push is an output.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Built {
    derivation: StorePath,
    path: Arc<StorePath>,
    /// How many such paths are below the path, one below the other.
    rank: usize,
}

/// The derivations whose realisations a push publishes.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(Vec<Built>);

impl Wanted {
    /// The derivations of those paths of a closure that were built here, and whose contents give them their names.
    pub(super) fn of(request: &Request, closure: &Closure) -> Self {
        let mut derivations: HashMap<&StorePath, BTreeSet<&StorePath>> = HashMap::new();
        for info in closure.infos.values().filter(|info| info.ca.is_some() && info.ultimate) {
            derivations.entry(&info.path).or_default().extend(&info.deriver);
        }
        // The store names one deriver of a path. A build that gave what was there before has another one.
        for root in request.roots.iter().filter(|root| root.built_here) {
            if closure.infos.get(&root.path).is_some_and(|info| info.ca.is_some()) {
                derivations.entry(&root.path).or_default().extend(&root.derivation);
            }
        }
        let marked: HashSet<&StorePath> = derivations.keys().copied().collect();
        if marked.is_empty() {
            return Self::default();
        }
        let ranks = ranks(closure, &marked);
        let built =
            derivations.into_iter().flat_map(|(path, derivations)| {
                let (path, _) = closure.infos.get_key_value(path)?;
                let rank = ranks.get(&**path).copied().unwrap_or_default();
                Some(derivations.into_iter().filter(|path| path.is_derivation()).map(move |derivation| {
                    Built { derivation: derivation.clone(), path: path.clone(), rank }
                }))
            });
        let mut built: Vec<_> = built.flatten().collect();
        built.sort_by(|one, other| (one.rank, &one.path).cmp(&(other.rank, &other.path)));
        Self(built)
    }
}

/// For each path of a closure, how many marked paths are below it, one below the other.
fn ranks<'c>(closure: &'c Closure, marked: &HashSet<&StorePath>) -> HashMap<&'c StorePath, usize> {
    let mut ranks: HashMap<&StorePath, usize> = HashMap::new();
    for start in closure.infos.keys() {
        let mut open = vec![&**start];
        while let Some(path) = open.last().copied() {
            let references = || closure.infos.get(path).into_iter().flat_map(|info| info.dependencies());
            let before = open.len();
            if !ranks.contains_key(path) {
                open.extend(references().map(|path| &**path).filter(|path| !ranks.contains_key(path)));
            }
            if open.len() == before {
                let rank = |path: &Arc<StorePath>| {
                    ranks.get(&**path).map_or(0, |rank| rank + usize::from(marked.contains(&**path)))
                };
                let highest = references().map(rank).max().unwrap_or_default();
                ranks.entry(path).or_insert(highest);
                open.pop();
            }
        }
    }
    ranks
}

/// Asks the store for the realisations of each derivation, and of those that stand for it.
fn ask_store(
    derivations: &mut Derivations,
    location: &StoreLocation,
    wanted: Vec<Built>,
) -> Vec<(Built, Result<Vec<Realisation>>)> {
    let mut daemon = None;
    let mut ask = |path: &StorePath| derivations.realisations(location, &mut daemon, path);
    let answers: Vec<_> = wanted.iter().map(|built| ask(&built.derivation)).collect();
    let places: HashMap<&StorePath, &Built> = wanted.iter().map(|built| (&*built.path, built)).collect();
    let is_known = |answer: &Result<Vec<Realisation>>| answer.as_ref().is_ok_and(|found| !found.is_empty());
    let floating = wanted.iter().zip(&answers).filter(|(_, answer)| is_known(answer));
    let floating: BTreeSet<_> = floating.map(|(built, _)| built.derivation.clone()).collect();
    let mut more = Vec::new();
    if !floating.is_empty() {
        for derivation in Derivations::alike(location, &floating) {
            // Nothing asks for those that cannot be read, or are of another build.
            let found = ask(&derivation).unwrap_or_default();
            let Some(built) = found.iter().find_map(|one| places.get(&one.path)) else { continue };
            more.push((Built { derivation, ..(*built).clone() }, Ok(found)));
        }
    }
    wanted.into_iter().zip(answers).chain(more).collect()
}

/// Publishes realisations within a session.
#[derive(Debug, Default)]
pub(super) struct Realisations {
    derivations: Arc<Mutex<Derivations>>,
    /// When the session has published or found each of them.
    there: Mutex<HashMap<Realisation, Moment>>,
    /// The derivations and paths about which a remark was made.
    remarked: Mutex<BTreeSet<StorePath>>,
}

impl Realisations {
    /// Publishes the realisations of those paths that the bucket has, the lowest first. Returns the paths whose realisations
    /// could not be published, and may be at another attempt.
    pub(super) async fn publish(
        &self,
        publisher: Publisher<'_>,
        store: &Arc<StoreLocation>,
        (wanted, since): (Wanted, Moment),
        report: &Report,
        progress: &dyn Progress,
    ) -> Vec<(Arc<StorePath>, Error)> {
        let is_there =
            |path: &StorePath| report.outcomes.get(path).is_some_and(|outcome| outcome.kind().is_in_bucket());
        let wanted: Vec<_> = wanted.0.into_iter().filter(|built| is_there(&built.path)).collect();
        let mut failed = Vec::new();
        let mut by_rank: BTreeMap<usize, BTreeSet<Realisation>> = BTreeMap::new();
        for (built, found) in self.ask(wanted, store).await {
            match found {
                Ok(found) => by_rank.entry(built.rank).or_default().extend(found),
                Err(error) if error.retry() == Retry::Transient => failed.push((built.path, error)),
                Err(error) => self.remark(&built.derivation, progress, || {
                    format!(
                        "cannot publish which path the derivation `{}` has become, so that clients build it themselves: {error}",
                        built.derivation.to_basename()
                    )
                }),
            }
        }
        for found in by_rank.into_values() {
            let found = found.into_iter().filter(|one| is_there(&one.path) && !self.is_known(one, publisher));
            let work = found.map(|one| async move {
                let at = Moment::now();
                let published = self.publish_one(publisher, &one, since, progress).await;
                (one, at, published)
            });
            let mut running = stream::iter(work).buffer_unordered(CONCURRENT);
            while let Some((one, at, published)) = running.next().await {
                match published {
                    Ok(()) => {
                        lock(&self.there).insert(one, at);
                    }
                    Err(error) => failed.push((Arc::new(one.path), error)),
                }
            }
        }
        failed
    }

    async fn publish_one(
        &self,
        publisher: Publisher<'_>,
        one: &Realisation,
        since: Moment,
        progress: &dyn Progress,
    ) -> Result<()> {
        if let Some(other) = publisher.publish_realisation(one, since).await? {
            self.remark(&one.path, progress, || {
                format!(
                    "clients that build the derivation of `{}` get `{}`, which the bucket had before: the build gives different results",
                    one.path.to_basename(),
                    other.to_basename()
                )
            });
        }
        Ok(())
    }

    fn is_known(&self, one: &Realisation, publisher: Publisher<'_>) -> bool {
        let at = lock(&self.there).get(one).copied();
        at.is_some_and(|at| at.elapsed() <= FACT_AGE && !publisher.session.forgot(one.path.digest(), at))
    }

    /// Asks the store for the realisations of each derivation.
    async fn ask(
        &self,
        wanted: Vec<Built>,
        store: &Arc<StoreLocation>,
    ) -> Vec<(Built, Result<Vec<Realisation>>)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let (derivations, location, asked) = (self.derivations.clone(), store.clone(), wanted.clone());
        let ask = move || ask_store(&mut lock(&derivations), &location, asked);
        match tokio::task::spawn_blocking(ask).await {
            Ok(answers) => answers,
            Err(error) => {
                let error = Error::transient(Area::General, "the thread that reads derivations ended early")
                    .because(error);
                wanted.into_iter().map(|built| (built, Err(error.clone()))).collect()
            }
        }
    }

    /// Makes one remark about each derivation or path.
    fn remark(&self, about: &StorePath, progress: &dyn Progress, text: impl FnOnce() -> String) {
        if lock(&self.remarked).insert(about.clone()) {
            progress.remark(&text());
        }
    }
}
