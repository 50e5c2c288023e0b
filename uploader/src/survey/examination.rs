//! The examination of one path: its narinfo is read and judged, and its NAR is looked up.

use std::collections::HashSet;

use nix_derivation::StorePath;

use super::nars::NarScan;
use super::presence::Presence;
use super::verify::Verifier;
use crate::base::error::{Area, Error, Result};
use crate::bucket::Bucket;
use crate::format::named_nar::NamedNar;
use crate::format::narinfo::NarObject;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::format::standing::{Judge, Standing, Unusable};

/// The largest number of narinfos that are read to find out whether a build of another machine is complete.
const MOST_OTHERS: usize = 1000;

/// Examines paths in a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Examiner<'a> {
    /// The bucket.
    pub bucket: &'a dyn Bucket,
    /// Judges the narinfos.
    pub judge: Judge<'a>,
    /// The names of the keys whose unusable narinfos larder may replace.
    pub adopt: &'a [String],
    /// Verifies NARs before larder signs for them.
    pub verifier: &'a Verifier,
}

/// The result of an examination.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The presence of the path.
    pub presence: Presence,
    /// The entity tag of the narinfo, if there is a narinfo and the server gives a tag.
    pub etag: Option<String>,
    /// The narinfo with our signatures added, if it lacks some.
    pub rewritten: Option<Vec<u8>>,
}

impl Examined {
    fn without_narinfo(presence: Presence) -> Self {
        Self { presence, etag: None, rewritten: None }
    }
}

impl Examiner<'_> {
    /// Reads and judges the narinfo of a path of the store, and looks its NAR up: in the listing `nars`, or else by a
    /// question to the bucket.
    pub async fn examine(&self, info: &PathInfo, nars: Option<&NarScan>) -> Examined {
        let object = match self.bucket.get(&object_keys::narinfo(&info.path)).await {
            Ok(Some(object)) => object,
            Ok(None) => return Examined::without_narinfo(Presence::Absent),
            Err(error) => return Examined::without_narinfo(Presence::Unknown(error)),
        };
        let standing = self.judge.standing(info, &object.body);
        let (presence, rewritten) = match self.presence(info, standing, nars).await {
            Ok(found) => found,
            Err(error) => (Presence::Unknown(error), None),
        };
        Examined { presence, etag: object.etag, rewritten }
    }

    /// Why a client cannot take a path that the store need not have; `None` if it can. The references of the path are
    /// not asked.
    ///
    /// # Errors
    /// When the bucket fails.
    pub async fn fault_of(&self, path: &StorePath) -> Result<Option<String>> {
        Ok(self.alone(path, None).await?.err())
    }

    /// The presence that follows from a narinfo, and the narinfo with the signatures that it lacks.
    async fn presence(
        &self,
        info: &PathInfo,
        standing: Standing,
        nars: Option<&NarScan>,
    ) -> Result<(Presence, Option<Vec<u8>>)> {
        let (presence, fault, signers, rewritten) = match standing {
            Standing::Unusable(unusable) => return Ok((self.unusable(&unusable), None)),
            Standing::Same { nar, accepted, rewritten, signers } => {
                let presence = match rewritten {
                    None => Presence::Complete,
                    Some(_) => Presence::LacksSignatures { accepted },
                };
                let fault = match self.look_up(&nar, nars).await? {
                    // No trusted key vouches for this NAR, and clients would believe ours.
                    Ok(size) if !accepted => self.contents_fault(info, nar, size).await?,
                    Ok(_) => None,
                    Err(fault) => Some(fault),
                };
                (presence, fault, signers, rewritten)
            }
            Standing::Other { nar, references, signer, signers } => {
                let fault = match self.look_up(&nar, nars).await? {
                    Ok(_) => self.missing_below(info, &references, nars).await?,
                    Err(fault) => Some(fault),
                };
                (Presence::Differs { signer }, fault, signers, None)
            }
        };
        Ok(match fault {
            None => (presence, rewritten),
            Some(fault) => (self.unusable(&Unusable { fault, signers }), None),
        })
    }

    fn unusable(&self, unusable: &Unusable) -> Presence {
        match unusable.may_be_replaced(self.adopt) {
            true => Presence::Replaceable,
            false => Presence::Unusable(unusable.reason()),
        }
    }

    /// The size of the object of a NAR, or what is wrong with it.
    async fn look_up(&self, nar: &NamedNar, nars: Option<&NarScan>) -> Result<Result<u64, String>> {
        let size = match nars.and_then(|nars| nars.size_of(&nar.key)) {
            Some(size) => Some(size),
            None => self.bucket.head(&nar.key).await?.map(|meta| meta.size),
        };
        Ok(size.filter(|size| nar.fits(*size)).ok_or_else(|| nar.fault(size)))
    }

    /// What is wrong with the contents of a NAR; `None` if it is the NAR of the path.
    async fn contents_fault(&self, info: &PathInfo, nar: NamedNar, size: u64) -> Result<Option<String>> {
        let NamedNar { key, compression, .. } = nar;
        let Some(compression) = compression else {
            return Ok(Some(format!(
                "larder does not read the compression of `{key}`, and so cannot sign for it"
            )));
        };
        let object = NarObject { key: key.clone(), compression, file_hash: None, file_size: Some(size) };
        let sound = self.verifier.check(self.bucket, info, object).await?;
        Ok(sound.is_none().then(|| format!("its NAR `{key}` has other contents")))
    }

    /// What another build of the path refers to, beyond what the build of this machine refers to, and what a client
    /// cannot take; `None` if the closure is complete. The plan of the push looks after the common references.
    async fn missing_below(
        &self,
        info: &PathInfo,
        references: &[StorePath],
        nars: Option<&NarScan>,
    ) -> Result<Option<String>> {
        let mut seen: HashSet<StorePath> = info.references.iter().map(|path| (**path).clone()).collect();
        let mut next: Vec<_> =
            references.iter().filter(|path| seen.insert((*path).clone())).cloned().collect();
        let mut read = 0;
        while let Some(path) = next.pop() {
            read += 1;
            if read > MOST_OTHERS {
                return Ok(Some("it refers to very many paths that this machine does not have".into()));
            }
            match self.alone(&path, nars).await? {
                Ok(below) => next.extend(below.into_iter().filter(|path| seen.insert(path.clone()))),
                Err(fault) => return Ok(Some(format!("it refers to `{}`: {fault}", path.to_basename()))),
            }
        }
        Ok(None)
    }

    /// The references of a path that a client can take, or why a client cannot take it.
    async fn alone(
        &self,
        path: &StorePath,
        nars: Option<&NarScan>,
    ) -> Result<Result<Vec<StorePath>, String>> {
        let Some(object) = self.bucket.get(&object_keys::narinfo(path)).await? else {
            return Ok(Err("it has no narinfo in the bucket".into()));
        };
        Ok(match self.judge.alone(path, &object.body) {
            Err(unusable) => Err(unusable.fault),
            Ok((nar, references)) => self.look_up(&nar, nars).await?.map(|_| references),
        })
    }
}

/// The error about a path that a client could take when a push began, and cannot take any more.
pub fn vanished(path: &StorePath, fault: &str) -> Error {
    Error::transient(Area::Bucket, format!("`{}` in the bucket has become unusable", path.to_basename()))
        .because(fault.to_owned())
        .hint("the next attempt looks at it again, and pushes it if it may")
}
