//! What the source says of paths, and what the bucket has of them.

use std::collections::{BTreeMap, HashSet};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix_derivation::nixbase32;

use crate::base::error::{Area, Error, Result};
use crate::bucket::Depth;
use crate::format::object_keys::narinfo_hash;
use crate::format::repointing::Claim;
use crate::push::Pusher;
use crate::push::decide::{Origin, Verdict};
use crate::session::HashPart;
use crate::survey::Presence;
use crate::upkeep::repair::Source;

/// The number of paths that are asked about at the same time.
const CONCURRENT: usize = 32;
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
}

/// All paths of a transfer.
pub type Found = BTreeMap<HashPart, State>;

/// Asks the source and the bucket.
pub struct Surveyor<'a> {
    /// The session with the bucket, the rules and the keys.
    pub pusher: &'a Pusher,
    /// The other cache.
    pub source: &'a Source,
}

impl Surveyor<'_> {
    /// Asks about the paths and all that they refer to.
    ///
    /// # Errors
    /// When the source or the bucket does not answer.
    pub async fn ask(&self, roots: Vec<HashPart>, progress: &(dyn Fn(usize) + Sync)) -> Result<Found> {
        let (mut found, mut seen) = (Found::new(), HashSet::new());
        let mut next: Vec<_> = roots.into_iter().filter(|root| seen.insert(*root)).collect();
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < CONCURRENT
                && let Some(digest) = next.pop()
            {
                asked.push(async move { (digest, self.ask_one(&digest).await) });
            }
            let Some((digest, state)) = asked.next().await else { return Ok(found) };
            let state = state?;
            if let Some(claim) = state.claim() {
                let references = claim.info.dependencies().map(|path| *path.digest());
                next.extend(references.filter(|reference| seen.insert(*reference)));
            }
            if seen.len() > MOST {
                return Err(Error::permanent(Area::Bucket, "cannot copy so many paths"));
            }
            found.insert(digest, state);
            progress(found.len());
        }
    }

    async fn ask_one(&self, digest: &HashPart) -> Result<State> {
        let publisher = self.pusher.publisher();
        let store_dir = publisher.examiner.judge.store_dir;
        let rules = self.pusher.rules();
        let trusted = [&*rules.trusted_keys, &*rules.upstream_keys].concat();
        let Some(claim) = self.source.claim(store_dir, &trusted, digest).await? else {
            return Ok(State::Left("the other cache does not have it".into()));
        };
        let claim = Box::new(claim);
        if !claim.is_vouched {
            return Ok(State::Left(
                "no trusted key has signed what the other cache says (`--trust-source` names its key)".into(),
            ));
        }
        let found = publisher.examiner.examine(&claim.info, None).await;
        let verdict = rules.judge(store_dir, &claim.info, Origin::Unknown, &[]);
        Ok(match (found.presence, verdict) {
            (Presence::Unknown(error), _) => return Err(error),
            (Presence::Complete, _) => State::Present(claim),
            (Presence::Differs { signer }, _) => State::Differs(signer),
            (Presence::Unusable(reason), _) => State::Left(reason),
            (Presence::Absent, Verdict::Upstream) => State::Upstream,
            (_, Verdict::Excluded(reason)) => State::Left(reason),
            (Presence::LacksSignatures { accepted: true }, Verdict::Refused | Verdict::Upstream) => {
                State::Present(claim)
            }
            (_, Verdict::Refused) => {
                State::Left("no key of `trusted-keys` or `--trust-source` has signed it".into())
            }
            (Presence::LacksSignatures { .. }, _) => State::Sign(claim),
            (Presence::Absent | Presence::Replaceable, _) => State::Carry(claim),
        })
    }
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
