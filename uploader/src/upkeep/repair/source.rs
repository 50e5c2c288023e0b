//! Other caches, from which paths and NARs can be had: a cache that clients read over HTTP, or a bucket.
//!
//! Nothing that a source says is believed: its narinfos count by their signatures, its NARs by their hashes.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use nix_derivation::store_path::{StoreDir, StorePath};
use nix_narinfo::TrustedPublicKey;
use tokio::sync::mpsc;

use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, MAX_SMALL};
use crate::format::cache_info::CacheInfo;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::format::repointing::Claim;
use crate::http::PublicReader;
use crate::push::Progress;
use crate::push::send::{NarOrigin, NarSender, Uploaded};
use crate::store::NarError;
use crate::survey::{CLIENT_WINDOW, NarContents, NarFault, NarSource, read_nar, read_nar_from};

/// The number of pieces of a NAR that wait between the download and the compressor.
const PIECES: usize = 8;

/// Another cache.
#[derive(Clone, Debug)]
pub enum Source {
    /// A bucket.
    Bucket(Arc<dyn Bucket>),
    /// A cache at an `http` or `https` URL.
    Cache {
        /// The URL, without a slash at its end.
        url: String,
        /// Reads it.
        reader: Arc<PublicReader>,
    },
}

impl Source {
    /// The address, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Bucket(bucket) => bucket.address(),
            Self::Cache { url, .. } => url.clone(),
        }
    }

    /// Checks that this is a cache for the store directory.
    ///
    /// # Errors
    /// When it is none, or cannot be read.
    pub async fn check(&self, store_dir: &StoreDir) -> Result<()> {
        let bytes = self.small(object_keys::CACHE_INFO).await?;
        let unusable = |why: String| {
            Error::permanent(Area::Usage, format!("`{}` cannot be a source", self.name())).because(why)
        };
        let bytes = bytes.ok_or_else(|| unusable("it has no `nix-cache-info`".into()))?;
        let info = CacheInfo::parse(&String::from_utf8_lossy(&bytes)).map_err(unusable)?;
        match info.store_dir == store_dir.as_str() {
            true => Ok(()),
            false => Err(unusable("it is for another store directory".into())),
        }
    }

    /// What the source says of the path with this hash part; `None` if it says nothing that can be read.
    ///
    /// # Errors
    /// When the source does not answer.
    pub async fn claim(
        &self,
        store_dir: &StoreDir,
        trusted: &[TrustedPublicKey],
        digest: &[u8; 20],
    ) -> Result<Option<Claim>> {
        let bytes = self.small(&object_keys::narinfo_of(digest)).await?;
        Ok(bytes.and_then(|bytes| Claim::read(store_dir, trusted, digest, &bytes).ok()))
    }

    /// The build log of a derivation, as it stands in the source; `None` if it has none of at most `most` bytes. Of a cache over
    /// HTTP, only small logs are read.
    ///
    /// # Errors
    /// When the source does not answer.
    pub async fn log(&self, derivation: &StorePath, most: u64) -> Result<Option<Vec<u8>>> {
        let key = object_keys::log(derivation);
        let Self::Bucket(bucket) = self else {
            let body = self.small(&key).await?;
            return Ok(body.filter(|body| body.len() as u64 <= most).map(Vec::from));
        };
        let mut text = Vec::new();
        loop {
            let part = bucket.get_part(&key, text.len() as u64, MAX_SMALL).await?;
            let Some(part) = part else { return Ok(None) };
            text.extend_from_slice(&part);
            if text.len() as u64 > most {
                return Ok(None);
            }
            if (part.len() as u64) < MAX_SMALL {
                return Ok(Some(text));
            }
        }
    }

    async fn small(&self, key: &str) -> Result<Option<Bytes>> {
        match self {
            Self::Bucket(bucket) => Ok(bucket.get(key).await?.map(|object| object.body)),
            Self::Cache { url, reader } => {
                let url = format!("{url}/{key}");
                let answer = reader.get(&url).await?;
                match answer.status {
                    200 => Ok(Some(answer.body)),
                    403 | 404 | 410 => Ok(None),
                    status => Err(Error::transient(Area::Bucket, format!("cannot read `{url}`"))
                        .because(format!("the server answers {status}"))),
                }
            }
        }
    }

    /// Sends the NAR that `claim` of this source names, as the NAR of `info`, under a new key. It becomes visible only if its
    /// hash is that of `info`.
    ///
    /// # Errors
    /// When the source does not have it, has something else, or one of the two sides fails.
    pub async fn send(
        &self,
        claim: &Claim,
        sender: &NarSender,
        info: &Arc<PathInfo>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Uploaded> {
        let (pieces, mut arriving) = mpsc::channel::<Bytes>(PIECES);
        let consume = move |bytes: &[u8]| {
            let sent = pieces.blocking_send(Bytes::copy_from_slice(bytes));
            sent.map_err(|_| io::Error::other("the upload was given up"))
        };
        let write = move |out: &mut dyn io::Write| {
            while let Some(piece) = arriving.blocking_recv() {
                out.write_all(&piece).map_err(NarError::Sink)?;
            }
            Ok(())
        };
        let origin = NarOrigin::Elsewhere(Box::new(write));
        let (read, sent) =
            futures::join!(self.read(claim, info, consume), sender.send_anew(info, origin, progress));
        match read {
            // The upload compares once more.
            Ok(Ok(read)) if read.nar_hash == info.nar_hash && read.nar_size == info.nar_size => sent,
            Ok(Ok(_)) => Err(self.refused(info, "it has other contents")),
            Ok(Err(NarFault::Undecodable(reason))) => Err(self.refused(info, &reason)),
            Ok(Err(NarFault::TooLong)) => Err(self.refused(info, "it is too long")),
            Ok(Err(NarFault::Short)) => Err(self.refused(info, "it is gone, or was cut")),
            // The download stops when the upload does, and the upload's error says why.
            Err(error) if error.area() == Area::General => Err(sent.err().unwrap_or(error)),
            Err(error) => Err(error),
        }
    }

    fn refused(&self, info: &PathInfo, why: &str) -> Error {
        let what = format!("the NAR of `{}` in `{}` is not used", info.path.to_basename(), self.name());
        Error::permanent(Area::Bucket, what).because(why.to_owned())
    }

    async fn read(
        &self,
        claim: &Claim,
        info: &PathInfo,
        consume: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) -> Result<Result<NarContents, NarFault>> {
        let Some(label) = claim.label else {
            return Err(self.refused(info, "Nix does not know its compression"));
        };
        let source = |size| NarSource {
            key: claim.url.clone(),
            size,
            label,
            zstd_window: CLIENT_WINDOW,
            nar_size: info.nar_size,
        };
        match self {
            Self::Bucket(bucket) => {
                let nar = claim.nar.as_ref().ok_or_else(|| self.refused(info, "it is elsewhere"))?;
                let Some(meta) = bucket.head(&nar.key).await? else { return Ok(Err(NarFault::Short)) };
                read_nar(&**bucket, &source(meta.size), None, consume).await
            }
            Self::Cache { url, reader } => {
                if claim.url.contains("://") || claim.url.starts_with('/') {
                    return Err(self.refused(info, "it is on another server"));
                }
                let url = format!("{url}/{}", claim.url);
                // No compression that Nix reads makes a NAR much longer.
                let most = info.nar_size.saturating_add(info.nar_size / 64 + 4096);
                read_nar_from(&source(0), |parts| download(reader, url, most, parts), consume).await
            }
        }
    }
}

/// Downloads an object of at most `most` bytes.
async fn download(reader: &PublicReader, url: String, most: u64, parts: mpsc::Sender<Bytes>) -> Result<bool> {
    let mut download = reader.open(&url).await?;
    match download.status {
        200 => {}
        403 | 404 | 410 => return Ok(false),
        status => {
            return Err(Error::transient(Area::Bucket, format!("cannot read `{url}`"))
                .because(format!("the server answers {status}")));
        }
    }
    let mut size = 0;
    while let Some(bytes) = download.next().await? {
        size += bytes.len() as u64;
        if size > most {
            return Err(Error::permanent(Area::Bucket, format!("cannot use `{url}`"))
                .because("it is longer than the NAR that it should hold"));
        }
        if parts.send(bytes).await.is_err() {
            break;
        }
    }
    Ok(true)
}
