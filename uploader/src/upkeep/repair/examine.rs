//! Looks at the paths at fault: what their narinfos say now, and what the bucket, the local store and other caches have for
//! them. Changes nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use nix_derivation::StorePath;
use nix_derivation::store_path::StoreDir;
use nix_narinfo::TrustedPublicKey;

use super::patient::Patient;
use super::source::Source;
use crate::base::error::{Area, Error, Result};
use crate::bucket::Bucket;
use crate::format::narinfo::fingerprint;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::format::repointing::Claim;
use crate::format::signature::verified;
use crate::format::standing::signers;
use crate::store::{Daemon, StoreLocation};
use crate::upkeep::inventory::{AbsentId, Catalog};
use crate::upkeep::verify::Kind;

/// The number of paths that are examined at the same time.
const CONCURRENT: usize = 24;

/// What the bucket has for a path at fault.
#[derive(Clone, Debug)]
pub enum State {
    /// A trusted key has signed the narinfo: it vouches for the hash of the NAR.
    Vouched(Box<Claim>),
    /// No client can use the narinfo.
    Unusable {
        /// Why.
        fault: String,
        /// The names of the keys that signed it.
        signers: Vec<String>,
    },
    /// There is no narinfo.
    Absent,
}

/// An object in the bucket that may hold a NAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The key.
    pub key: String,
    /// The label of its compression.
    pub label: &'static str,
}

/// A path at fault, and what there is for it.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The path. Its name is known if anybody knows it.
    pub patient: Patient,
    /// What the bucket has.
    pub state: State,
    /// Objects in the bucket that may hold the NAR for which the narinfo vouches.
    pub candidates: Vec<Candidate>,
    /// What the local store has.
    pub in_store: Option<Arc<PathInfo>>,
    /// What other caches say of the path, with the numbers of these sources.
    pub elsewhere: Vec<(usize, Claim)>,
    /// The errors of other caches that have not answered.
    pub unanswered: Vec<String>,
}

/// Looks at paths.
#[derive(Clone, Copy, Debug)]
pub struct Examiner<'a> {
    /// The bucket.
    pub bucket: &'a dyn Bucket,
    /// The local store, if there is one.
    pub store: Option<&'a Arc<StoreLocation>>,
    /// Other caches.
    pub sources: &'a [Source],
    /// The store directory of the paths.
    pub store_dir: &'a StoreDir,
    /// The keys that clients trust.
    pub trusted: &'a [TrustedPublicKey],
    /// The keys whose signatures in other caches are believed.
    pub believed: &'a [TrustedPublicKey],
}

impl Examiner<'_> {
    /// Examines paths.
    ///
    /// # Errors
    /// When the bucket or the store fails.
    pub async fn examine(&self, catalog: &Catalog, patients: Vec<Patient>) -> Result<Vec<Examined>> {
        let looks = patients.into_iter().map(|patient| async move {
            let state = self.state(&patient).await?;
            Ok::<_, Error>((patient, state))
        });
        let states: Vec<_> = stream::iter(looks).buffered(CONCURRENT).try_collect().await?;
        let named = self.nars_of(catalog, &states);
        let asked = states.into_iter().map(|(patient, state)| {
            let candidates = candidates(&patient, &state, &named);
            async move {
                let (elsewhere, unanswered) = self.elsewhere(&patient.digest).await;
                let told = |claim: &Claim| (*claim.info.path).clone();
                let path = match (&patient.path, &state) {
                    (Some(path), _) => Some(path.clone()),
                    (None, State::Vouched(claim)) => Some(told(claim)),
                    (None, _) => {
                        elsewhere.iter().find(|(_, claim)| claim.is_vouched).map(|(_, claim)| told(claim))
                    }
                };
                let patient = Patient { path, ..patient };
                Ok::<_, Error>(Examined { patient, state, candidates, in_store: None, elsewhere, unanswered })
            }
        });
        let mut examined: Vec<_> = stream::iter(asked).buffered(CONCURRENT).try_collect().await?;
        self.ask_store(&mut examined).await?;
        Ok(examined)
    }

    /// The paths that narinfos refer to, that are not in the bucket, and that other caches have without a signature of the keys
    /// `upstream`: clients do not get them from upstream.
    ///
    /// Of what a cache does not answer for, nothing is known.
    pub async fn missing(&self, catalog: &Catalog, upstream: &[TrustedPublicKey]) -> HashSet<AbsentId> {
        if self.sources.is_empty() {
            return HashSet::new();
        }
        let absent: Vec<_> =
            catalog.absent_ids().filter_map(|id| Some((id, *catalog.absent_path(id)?.digest()))).collect();
        let asked = absent.into_iter().map(|(id, digest)| async move {
            let (claims, errors) = self.elsewhere(&digest).await;
            let is_upstreams = |(_, claim): &(usize, Claim)| {
                verified(&fingerprint(self.store_dir, &claim.info), &claim.info.signatures, upstream)
            };
            let is_missing = errors.is_empty() && !claims.is_empty() && !claims.iter().any(is_upstreams);
            is_missing.then_some(id)
        });
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(CONCURRENT).collect().await;
        answers.into_iter().flatten().collect()
    }

    async fn state(&self, patient: &Patient) -> Result<State> {
        let Some(object) = self.bucket.get(&object_keys::narinfo_of(&patient.digest)).await? else {
            return Ok(State::Absent);
        };
        let unusable = |fault| State::Unusable { fault, signers: signers(&object.body) };
        Ok(match Claim::read(self.store_dir, self.trusted, &patient.digest, &object.body) {
            Err(fault) => unusable(fault),
            Ok(claim) if claim.is_vouched => State::Vouched(Box::new(claim)),
            Ok(_) => unusable("no trusted key signed it".into()),
        })
    }

    /// The objects in the bucket that narinfos name, or whose keys say that they hold one of the NARs that are wanted.
    fn nars_of(&self, catalog: &Catalog, states: &[(Patient, State)]) -> HashMap<[u8; 32], Vec<Candidate>> {
        let wanted: HashSet<[u8; 32]> = states
            .iter()
            .filter_map(|(_, state)| match state {
                State::Vouched(claim) => Some(claim.info.nar_hash),
                _ => None,
            })
            .collect();
        let mut found: HashMap<[u8; 32], Vec<Candidate>> = HashMap::new();
        let mut add = |hash, candidate: Candidate| {
            let known = found.entry(hash).or_default();
            if !known.iter().any(|other| other.key == candidate.key) {
                known.push(candidate);
            }
        };
        for id in catalog.ids().filter(|id| wanted.contains(catalog.nar_hash(*id))) {
            if let Some(nar) = catalog.named_nar(id) {
                add(nar.nar_hash, Candidate { key: nar.key, label: nar.label });
            }
        }
        for (key, _) in catalog.nars().iter() {
            if let Some((hash, compression)) =
                object_keys::parse_nar(key).filter(|(hash, _)| wanted.contains(hash))
            {
                add(hash, Candidate { key: key.to_owned(), label: compression.name() });
            }
        }
        found
    }

    /// What other caches say of a path, and the errors of those that do not answer: the others may mend it.
    async fn elsewhere(&self, digest: &[u8; 20]) -> (Vec<(usize, Claim)>, Vec<String>) {
        let (mut claims, mut errors) = (Vec::new(), Vec::new());
        for (number, source) in self.sources.iter().enumerate() {
            match source.claim(self.store_dir, self.believed, digest).await {
                Ok(claim) => claims.extend(claim.map(|claim| (number, claim))),
                Err(error) => errors.push(error.to_string()),
            }
        }
        (claims, errors)
    }

    async fn ask_store(&self, examined: &mut [Examined]) -> Result<()> {
        let Some(store) = self.store.cloned() else { return Ok(()) };
        name_by_store(store.clone(), examined).await?;
        let places: Vec<_> =
            (0..examined.len()).filter(|place| examined[*place].patient.path.is_some()).collect();
        let paths = places.iter().filter_map(|place| examined[*place].patient.path.clone()).collect();
        for (place, info) in places.into_iter().zip(store_infos(store, paths).await?) {
            examined[place].in_store = info.map(Arc::new);
        }
        Ok(())
    }
}

/// Asks the store for the names of paths of which nothing but the hash part is known.
async fn name_by_store(store: Arc<StoreLocation>, examined: &mut [Examined]) -> Result<()> {
    if examined.iter().all(|one| one.patient.path.is_some()) {
        return Ok(());
    }
    let valid = ask_daemon(store, Daemon::all_valid_paths).await?;
    let names: HashMap<[u8; 20], StorePath> = valid.into_iter().map(|path| (*path.digest(), path)).collect();
    for one in examined.iter_mut().filter(|one| one.patient.path.is_none()) {
        one.patient.path = names.get(&one.patient.digest).cloned();
    }
    Ok(())
}

/// What the store says of paths, in their order.
///
/// # Errors
/// When the daemon does not answer.
pub(super) async fn store_infos(
    store: Arc<StoreLocation>,
    paths: Vec<StorePath>,
) -> Result<Vec<Option<PathInfo>>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    ask_daemon(store, move |daemon| daemon.path_infos(&paths)).await
}

async fn ask_daemon<T: Send + 'static>(
    store: Arc<StoreLocation>,
    question: impl FnOnce(&mut Daemon) -> Result<T> + Send + 'static,
) -> Result<T> {
    let ask = move || question(&mut Daemon::connect(&store)?);
    tokio::task::spawn_blocking(ask).await.unwrap_or_else(|error| {
        Err(Error::permanent(Area::General, "the thread that reads the store ended early").because(error))
    })
}

/// The objects that may hold the NAR of a vouched narinfo. The NAR that it names is among them if only its size or its hash
/// is in doubt: the narinfo may be wrong.
fn candidates(patient: &Patient, state: &State, named: &HashMap<[u8; 32], Vec<Candidate>>) -> Vec<Candidate> {
    let State::Vouched(claim) = state else { return Vec::new() };
    let mut candidates = named.get(&claim.info.nar_hash).cloned().unwrap_or_default();
    let current = claim.nar.as_ref().map(|nar| &nar.key);
    match patient.kind {
        Kind::NarMissing | Kind::NarContents => {
            candidates.retain(|candidate| Some(&candidate.key) != current)
        }
        // What the narinfo names already comes first.
        _ => candidates.sort_by_key(|candidate| Some(&candidate.key) != current),
    }
    candidates
}
