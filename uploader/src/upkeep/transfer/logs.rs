//! Brings the build logs of paths along, after the paths themselves. Nothing vouches for a log, and none makes a transfer fail.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use nix_derivation::StorePath;

use super::carry::Carrier;
use crate::base::clock::Moment;

/// The number of logs that are carried at the same time. Each is in memory meanwhile.
const CONCURRENT: usize = 4;
/// How compressed files begin: bzip2, gzip, xz, zstd. Without a `Content-Encoding`, no client decompresses such a log.
const COMPRESSED: [&[u8]; 4] = [b"BZh", b"\x1f\x8b", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"];

impl Carrier<'_> {
    /// Carries the logs of derivations, each with an output that clients can take from the bucket since the moment `since`. A
    /// log that stands in the bucket stays. Returns how many were carried.
    pub async fn carry_logs(&self, derivations: &BTreeMap<StorePath, StorePath>, since: Moment) -> usize {
        if self.pusher.most_log().is_none() {
            return 0;
        }
        let work = derivations.clone().into_iter().map(|of| self.carry_log(of, since));
        let done: Vec<bool> = stream::iter(work).buffer_unordered(CONCURRENT).collect().await;
        done.into_iter().filter(|carried| *carried).count()
    }

    async fn carry_log(&self, (derivation, output): (StorePath, StorePath), since: Moment) -> bool {
        let Some(most) = self.pusher.most_log() else { return false };
        let carried = async {
            let Some(text) = self.source.log(&derivation, most).await? else { return Ok(false) };
            if text.is_empty() || COMPRESSED.iter().any(|magic| text.starts_with(magic)) {
                return Ok(false);
            }
            self.pusher.write_log(&derivation, &output, text, since).await
        };
        carried.await.unwrap_or_else(|error: crate::base::error::Error| {
            let name = derivation.to_basename();
            self.progress.remark(&format!("the build log of `{name}` stays behind: {error}"));
            false
        })
    }
}
