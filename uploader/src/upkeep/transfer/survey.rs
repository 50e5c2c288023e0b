//! What the source says of paths, and what the bucket has of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, stream};
use nix_derivation::{StorePath, nixbase32};

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::Depth;
use crate::format::object_keys::{narinfo_hash, narinfo_of};
use crate::format::repointing::Claim;
use crate::http::PublicReader;
use crate::push::Pusher;
use crate::push::decide::{Origin, Verdict};
use crate::session::{HashPart, Proof};
use crate::survey::Presence;
use crate::upkeep::inventory::Options;
use crate::upkeep::repair::Source;
use crate::upkeep::verify::has_any;

/// The number of paths that are asked about at the same time.
const CONCURRENT: usize = 32;
/// The number of times that a path is asked about, while collections end.
const ATTEMPTS: usize = 3;
/// The most paths of a transfer.
const MOST: usize = 10_000_000;

/// What becomes of a path, from its own point of view.
#[derive(Clone, Debug)]
pub enum State {
    /// Its NAR and its narinfo are to be carried.
    Carry(Box<Claim>),
    /// The bucket has it, and lacks signatures of ours.
    Sign(Box<Claim>),
    /// Clients can take it from the bucket.
    Present(Box<Claim>),
    /// The source lacks it, and clients can take it from the bucket.
    There,
    /// The bucket has other contents for the path, which this key has signed.
    Differs(String),
    /// Clients get it from upstream.
    Upstream,
    /// It stays where it is, for this reason.
    Left(String),
}

impl State {
    /// What the source says, if it matters.
    pub fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Carry(claim) | Self::Sign(claim) | Self::Present(claim) => Some(claim),
            _ => None,
        }
    }

    /// The hash parts of what it refers to, without itself, if that matters.
    fn references(&self) -> impl Iterator<Item = HashPart> {
        self.claim().into_iter().flat_map(|claim| claim.info.dependencies().map(|path| *path.digest()))
    }
}

/// The roots that the bucket has before a transfer, apart from those that another path of the transfer refers to.
pub fn present_roots(found: &Found, roots: &[HashPart]) -> Vec<Arc<StorePath>> {
    let below: HashSet<HashPart> = found.values().flat_map(State::references).collect();
    let path = |digest: &HashPart| match found.get(digest) {
        Some(State::Present(claim)) if !below.contains(digest) => Some(claim.info.path.clone()),
        _ => None,
    };
    roots.iter().filter_map(path).collect()
}

/// The paths that the bucket has before a transfer.
pub fn there(found: &Found) -> HashSet<HashPart> {
    let is_there = |state: &State| matches!(state, State::Present(_) | State::There);
    found.iter().filter(|(_, state)| is_there(state)).map(|(digest, _)| *digest).collect()
}

/// All paths of a transfer.
pub type Found = BTreeMap<HashPart, State>;
/// What the source says of paths; nothing where it says nothing that can be read.
type Claims = BTreeMap<HashPart, Option<Box<Claim>>>;

/// The caches from which clients take what a bucket leaves out.
#[derive(Debug)]
pub struct Upstream {
    /// Reads them.
    pub reader: Arc<PublicReader>,
    /// Their URLs.
    pub urls: Vec<String>,
    /// The store directory, and the keys with which they sign.
    pub options: Options,
}

/// Asks the source and the bucket, and upstream about what both lack.
#[derive(Debug)]
pub struct Surveyor<'a> {
    /// The session with the bucket, the rules and the keys.
    pub pusher: &'a Pusher,
    /// The other cache.
    pub source: &'a Source,
    /// The caches from which clients take what the bucket leaves out.
    pub upstream: &'a Upstream,
    /// Whether paths that a collection condemns are kept. Else nothing is written.
    pub keep: bool,
}

impl Surveyor<'_> {
    /// Asks about the paths and all that they refer to: first the source, then the bucket, so that no collection takes
    /// meanwhile what the bucket is found to have.
    ///
    /// # Errors
    /// When the source or the bucket does not answer.
    pub async fn ask(&self, roots: Vec<HashPart>, progress: &(dyn Fn(usize) + Sync)) -> Result<Found> {
        let session = self.pusher.session();
        let (mut found, mut seen) = (Found::new(), HashSet::new());
        let mut next: Vec<_> = roots.into_iter().filter(|root| seen.insert(*root)).collect();
        while !next.is_empty() {
            let claims = self.claims(next, &mut seen).await?;
            if self.keep {
                session.clear(claims.keys()).await?;
            }
            let asked = claims.into_iter().map(|(digest, claim)| async move {
                Ok::<_, Error>((digest, self.state(&digest, claim).await?))
            });
            let mut answers = stream::iter(asked).buffer_unordered(CONCURRENT);
            next = Vec::new();
            while let Some(answer) = answers.next().await {
                let (digest, state) = answer?;
                next.extend(state.references().filter(|reference| seen.insert(*reference)));
                found.insert(digest, state);
                progress(found.len());
            }
        }
        Ok(found)
    }

    /// What the source says of the paths and of what they refer to. What upstream has is not followed.
    async fn claims(&self, roots: Vec<HashPart>, seen: &mut HashSet<HashPart>) -> Result<Claims> {
        let rules = self.pusher.rules();
        let store_dir = self.pusher.publisher().examiner.judge.store_dir;
        let trusted = [&*rules.trusted_keys, &*rules.upstream_keys].concat();
        let (mut next, mut claims) = (roots, Claims::new());
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < CONCURRENT
                && let Some(digest) = next.pop()
            {
                let trusted = &trusted;
                asked.push(async move { (digest, self.source.claim(store_dir, trusted, &digest).await) });
            }
            let Some((digest, claim)) = asked.next().await else { return Ok(claims) };
            let claim = claim?.map(Box::new);
            let followed = claim.as_ref().filter(|claim| claim.is_vouched && !self.is_upstreams(claim));
            let references = followed.into_iter().flat_map(|claim| claim.info.dependencies());
            next.extend(references.map(|path| *path.digest()).filter(|digest| seen.insert(*digest)));
            if seen.len() > MOST {
                return Err(Error::permanent(Area::Bucket, "cannot copy so many paths"));
            }
            claims.insert(digest, claim);
        }
    }

    fn is_upstreams(&self, claim: &Claim) -> bool {
        self.verdict(claim) == Verdict::Upstream
    }

    fn verdict(&self, claim: &Claim) -> Verdict {
        let store_dir = self.pusher.publisher().examiner.judge.store_dir;
        self.pusher.rules().judge(store_dir, &claim.info, Origin::Unknown, &[])
    }

    /// What becomes of a path. What a collection may have taken meanwhile is asked again.
    async fn state(&self, digest: &HashPart, claim: Option<Box<Claim>>) -> Result<State> {
        let session = self.pusher.session();
        for _ in 0..ATTEMPTS {
            let since = Moment::now();
            let state = match &claim {
                Some(claim) => self.claimed(claim.clone(), since).await?,
                None => self.elsewhere(digest, since).await?,
            };
            if !self.keep || !session.forgot(digest, since) {
                return Ok(state);
            }
            session.clear([digest].into_iter()).await?;
        }
        Err(Error::transient(Area::Bucket, "cannot tell what the bucket has")
            .because("collections ended during each attempt")
            .hint("try again"))
    }

    /// What becomes of a path that the source has.
    async fn claimed(&self, claim: Box<Claim>, since: Moment) -> Result<State> {
        let session = self.pusher.session();
        if !claim.is_vouched {
            let why = "no trusted key has signed what the other cache says (`--trust-source` names its key)";
            return Ok(match self.in_bucket(claim.info.path.digest(), since).await? {
                Some(Ok(())) => State::There,
                _ => State::Left(why.into()),
            });
        }
        if session.removed().contains(claim.info.path.digest()) {
            return Ok(State::Left("`larder remove --purge` has removed it for good".into()));
        }
        let found = self.pusher.publisher().examiner.examine(&claim.info, None).await;
        let proof = match &found.presence {
            Presence::Complete => Some(Proof::Complete),
            presence => presence.is_available().then_some(Proof::Foreign),
        };
        if let Some(proof) = proof {
            session.facts().record(claim.info.path.clone(), since, proof);
        }
        Ok(match (found.presence, self.verdict(&claim)) {
            (Presence::Unknown(error), _) => return Err(error),
            (Presence::Complete, _) => State::Present(claim),
            (Presence::Differs { signer }, _) => State::Differs(signer),
            (Presence::Unusable(reason), _) => State::Left(reason),
            (Presence::Absent, Verdict::Upstream) => State::Upstream,
            (
                Presence::LacksSignatures { accepted: true },
                Verdict::Refused | Verdict::Upstream | Verdict::Excluded(_),
            ) => State::Present(claim),
            (_, Verdict::Excluded(reason)) => State::Left(reason),
            (_, Verdict::Refused) => {
                State::Left("no key of `trusted-keys` or `--trust-source` has signed it".into())
            }
            (Presence::LacksSignatures { .. }, _) => State::Sign(claim),
            (Presence::Absent | Presence::Replaceable, _) => State::Carry(claim),
        })
    }

    /// What becomes of a path that the source lacks: caches leave out what clients take from upstream.
    async fn elsewhere(&self, digest: &HashPart, since: Moment) -> Result<State> {
        match self.in_bucket(digest, since).await? {
            Some(Ok(())) => return Ok(State::There),
            Some(Err(fault)) => return Ok(State::Left(lacking(&format!("in the bucket, {fault}")))),
            None => {}
        }
        let Upstream { reader, urls, options } = self.upstream;
        Ok(match has_any(reader, urls, options, digest).await {
            Ok(true) => State::Upstream,
            Ok(false) if urls.is_empty() => State::Left(lacking("the bucket lacks it, too")),
            Ok(false) => State::Left(lacking("the bucket and upstream lack it, too")),
            Err(error) => State::Left(lacking(&format!("whether upstream has it is not known: {error}"))),
        })
    }

    /// Whether clients can take a path from the bucket, or else why not; `None` if the bucket lacks it.
    async fn in_bucket(&self, digest: &HashPart, since: Moment) -> Result<Option<Result<(), String>>> {
        let (session, examiner) = (self.pusher.session(), self.pusher.publisher().examiner);
        let Some(object) = session.bucket().get(&narinfo_of(digest)).await? else { return Ok(None) };
        let claim = match Claim::read(examiner.judge.store_dir, &[], digest, &object.body) {
            Ok(claim) => claim,
            Err(fault) => return Ok(Some(Err(fault))),
        };
        let fault = examiner.fault_of(&claim.info.path).await?;
        if fault.is_none() {
            session.facts().record(claim.info.path, since, Proof::Foreign);
        }
        Ok(Some(fault.map_or(Ok(()), Err)))
    }
}

fn lacking(more: &str) -> String {
    format!("the other cache does not have it; {more}")
}

/// The hash parts of all paths of a cache that can be listed.
///
/// # Errors
/// When it cannot be listed.
pub async fn listed(source: &Source) -> Result<Vec<HashPart>> {
    let Source::Bucket(bucket) = source else {
        return Err(Error::permanent(Area::Usage, format!("cannot list `{}`", source.name()))
            .because("a cache over HTTP does not tell what it has")
            .hint(
                "name paths, or a file of paths with `--closure-of FILE`; what they refer to is copied, too",
            ));
    };
    let (mut digests, mut next) = (Vec::new(), None);
    loop {
        let page = bucket.list("", next.as_ref(), Depth::OneLevel).await?;
        let hashes = page.objects.iter().filter_map(|object| narinfo_hash(&object.key));
        let digest =
            |hash: &str| nixbase32::decode(hash.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        digests.extend(hashes.filter_map(digest).collect::<Vec<HashPart>>());
        next = page.next;
        if next.is_none() {
            return Ok(digests);
        }
    }
}
