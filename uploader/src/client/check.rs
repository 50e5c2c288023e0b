//! Checks a cache as a client without credentials reads it.

use nix_narinfo::{NarInfo, TrustedPublicKey};

use crate::base::error::{Area, Error, Result};
use crate::format::cache_info::CacheInfo;
use crate::format::object_keys;
use crate::http::PublicReader;
use crate::store::{StoreDir, StorePath};

/// How a cache answers a request for a path that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingPath {
    /// With status 404 or 410.
    NotFound,
    /// With status 403. Clients read that as absent, but a wrong bucket policy looks the same.
    Forbidden,
}

/// What a person can do about [`MissingPath::Forbidden`].
pub const FORBIDDEN_WARNING: &str =
    "the cache answers 403 for a missing path; grant s3:ListBucket to everybody to get the plain 404";

const OPEN_THE_BUCKET: &str = "let everybody read the bucket: a bucket policy with s3:GetObject where the server has policies; on Garage \
     `garage bucket website --allow BUCKET` and its website endpoint as `public-url`; on SeaweedFS the identity \
     `anonymous` with `Read:BUCKET`. For readers with credentials, `larder init --private`";

/// Reads `nix-cache-info` below `base` and a narinfo that does not exist.
///
/// Fails if a client could not use the cache for a store at `store_dir`.
pub async fn cache(reader: &PublicReader, base: &str, store_dir: &str) -> Result<MissingPath> {
    let unusable =
        |cause: String| Error::permanent(Area::Bucket, format!("clients cannot use `{base}`")).because(cause);
    let answer = reader.get(&format!("{base}/{}", object_keys::CACHE_INFO)).await?;
    if answer.status != 200 {
        let cause = format!("the answer for nix-cache-info has status {}", answer.status);
        return Err(unusable(cause).hint(OPEN_THE_BUCKET));
    }
    let info = CacheInfo::parse(&String::from_utf8_lossy(&answer.body)).map_err(|reason| {
        unusable(format!("its nix-cache-info is malformed: {reason}")).hint("check `public-url`")
    })?;
    if info.store_dir != store_dir {
        return Err(unusable(format!("it is for the store directory `{}`", info.store_dir)));
    }
    match reader.get(&format!("{base}/{}", object_keys::MISSING)).await?.status {
        404 | 410 => Ok(MissingPath::NotFound),
        403 => Ok(MissingPath::Forbidden),
        status => {
            Err(unusable(format!("the answer for a missing path has status {status}; clients expect 404")))
        }
    }
}

/// Reads the narinfo of a path below `base`, verifies its signatures, and asks for its NAR.
///
/// Fails if a client that trusts the keys `trusted` could not substitute the path.
pub async fn path(
    reader: &PublicReader,
    base: &str,
    store_dir: &StoreDir,
    path: &StorePath,
    trusted: &[TrustedPublicKey],
) -> Result<()> {
    let unusable = |cause: String| {
        let name = path.to_basename();
        Error::permanent(Area::Bucket, format!("a client cannot get `{name}` from `{base}`")).because(cause)
    };
    let answer = reader.get(&format!("{base}/{}", object_keys::narinfo(path))).await?;
    if answer.status != 200 {
        return Err(unusable(format!("the answer for its narinfo has status {}", answer.status))
            .hint("`larder status` on the machine that built the path says whether it waits there"));
    }
    let narinfo = NarInfo::parse_in(store_dir, &answer.body)
        .map_err(|error| unusable(format!("its narinfo is malformed: {error}")))?;
    if !narinfo.has_valid_signature(store_dir, trusted) {
        return Err(unusable(signature_fault(&narinfo, trusted)).hint(
            "compare the public key with the output of `larder key public FILE` on the machine that pushes",
        ));
    }
    let nar = reader.head(&format!("{base}/{}", narinfo.url())).await?;
    if nar.status != 200 {
        return Err(unusable(format!(
            "the answer for its NAR `{}` has status {}",
            narinfo.url(),
            nar.status
        )));
    }
    if let Some(encoding) = nar.header("content-encoding") {
        let cause =
            format!("its NAR comes with `Content-Encoding: {encoding}`, which breaks resumed downloads");
        return Err(
            unusable(cause).hint("switch compression off in the web server or proxy in front of the bucket")
        );
    }
    Ok(())
}

fn signature_fault(narinfo: &NarInfo, trusted: &[TrustedPublicKey]) -> String {
    let names: Vec<_> = trusted.iter().map(|key| key.name.as_str()).collect();
    let found: Vec<_> = narinfo.signatures().iter().map(|signature| signature.key_name.as_str()).collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    format!("no signature by `{}` verifies (the narinfo has signatures by: {found})", names.join("`, `"))
}
