//! Obtains a sound object for a NAR for whose hash a narinfo vouches.

use std::sync::Arc;

use larder_hook::fault::point;

use super::decide::{Plan, Way};
use super::examine::{Candidate, State};
use super::outcome::How;
use super::source::Source;
use crate::base::error::Result;
use crate::bucket::Bucket;
use crate::format::named_nar::ObjectOfNar;
use crate::format::path_info::PathInfo;
use crate::format::repointing::Claim;
use crate::push::Progress;
use crate::push::send::{NarOrigin, NarSender, Uploaded};
use crate::survey::{CLIENT_WINDOW, NarSource, read_nar};

/// Obtains NARs.
#[derive(Clone, Copy)]
pub(super) struct Obtainer<'a> {
    pub(super) bucket: &'a dyn Bucket,
    pub(super) sender: &'a NarSender,
    pub(super) sources: &'a [Source],
    pub(super) progress: &'a Arc<dyn Progress>,
}

impl Obtainer<'_> {
    /// An object in the bucket that was compared with the hash now: one that was there, or a new one. `plans` are those of paths
    /// with the same NAR. The error says why no way led to one.
    pub(super) async fn obtain(&self, plans: &[Plan]) -> Result<(ObjectOfNar, How), String> {
        let mut ways: Vec<(&Plan, &Way)> =
            plans.iter().flat_map(|plan| plan.ways.iter().map(move |way| (plan, way))).collect();
        ways.sort_by_key(|(_, way)| match way {
            Way::NarInBucket(_) => 0,
            Way::NarInStore => 1,
            Way::NarElsewhere(number) => 2 + number,
            Way::Push | Way::Fetch(_) => usize::MAX,
        });
        ways.dedup_by(|(_, one), (_, other)| one == other);
        let mut reasons: Vec<String> = Vec::new();
        for (plan, way) in ways {
            match self.go(plan, way).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(reasons.join("; "))
    }

    /// Goes one way; `None` if it leads nowhere.
    async fn go(&self, plan: &Plan, way: &Way) -> Result<Option<(ObjectOfNar, How)>> {
        let State::Vouched(claim) = &plan.examined.state else { return Ok(None) };
        match way {
            Way::NarInBucket(key) => {
                let candidate = plan.examined.candidates.iter().find(|candidate| candidate.key == *key);
                let Some(candidate) = candidate else { return Ok(None) };
                let found = self.check(candidate, claim).await?;
                Ok(found.map(|object| (object, How::NarInBucket(key.clone()))))
            }
            Way::NarInStore => {
                let Some(info) = &plan.examined.in_store else { return Ok(None) };
                let sent = self.sender.send_anew(info, NarOrigin::Store, self.progress).await?;
                point("repair: after a NAR");
                Ok(object(sent).map(|object| (object, How::NarFromStore)))
            }
            Way::NarElsewhere(number) => {
                let other = plan.examined.elsewhere.iter().find(|(other, _)| other == number);
                let (Some((_, other)), Some(source)) = (other, self.sources.get(*number)) else {
                    return Ok(None);
                };
                let info: Arc<PathInfo> = claim.info.clone().into();
                let sent = source.send(other, self.sender, &info, self.progress).await?;
                point("repair: after a NAR");
                Ok(object(sent).map(|object| (object, How::NarFrom(source.name()))))
            }
            Way::Push | Way::Fetch(_) => Ok(None),
        }
    }

    /// Reads an object; `None` if it does not hold the NAR.
    async fn check(&self, candidate: &Candidate, claim: &Claim) -> Result<Option<ObjectOfNar>> {
        let Some(meta) = self.bucket.head(&candidate.key).await? else { return Ok(None) };
        let source = NarSource {
            key: candidate.key.clone(),
            size: meta.size,
            label: candidate.label,
            zstd_window: CLIENT_WINDOW,
            nar_size: claim.info.nar_size,
        };
        let read = read_nar(self.bucket, &source, None, |_| Ok(())).await?;
        let sound = read
            .ok()
            .filter(|read| (read.nar_hash, read.nar_size) == (claim.info.nar_hash, claim.info.nar_size));
        Ok(sound.map(|read| ObjectOfNar {
            key: candidate.key.clone(),
            label: candidate.label,
            file_size: meta.size,
            file_hash: read.file_hash,
        }))
    }
}

/// The object that was sent now.
fn object(sent: Uploaded) -> Option<ObjectOfNar> {
    let (file_hash, file_size) = (sent.object.file_hash?, sent.object.file_size?);
    Some(ObjectOfNar { key: sent.object.key, label: sent.object.compression.name(), file_size, file_hash })
}
