//! Checks a cache as a client without credentials reads it.

use nix_narinfo::{NarInfo, TrustedPublicKey};
use url::Url;

use crate::base::error::{Area, Error, Result, Retry};
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

/// The same for the cache of a bucket, whose own URL is `bucket_url`. If the cache is at another URL of the same server,
/// the error names that URL.
pub async fn own_cache(
    reader: &PublicReader,
    base: &str,
    bucket_url: &str,
    store_dir: &str,
) -> Result<MissingPath> {
    let fault = match cache(reader, base, store_dir).await {
        Err(fault) if fault.retry() == Retry::Permanent => fault,
        result => return result,
    };
    for url in other_places(base, bucket_url) {
        if cache(reader, &url, store_dir).await.is_ok() {
            let cause = match url.strip_prefix(base).map(|prefix| prefix.trim_matches('/')) {
                Some(prefix) => format!("`public-url` lacks the prefix `{prefix}`"),
                None => format!("a cache is at `{url}`"),
            };
            return Err(Error::permanent(Area::Bucket, format!("clients cannot use `{base}`"))
                .because(cause)
                .hint(format!("set `public-url` to `{url}`")));
        }
    }
    Err(fault)
}

/// The most URLs at which a misplaced cache is searched.
const MAX_PLACES: usize = 12;

/// URLs of the server of `base` at which the bucket may be: a beginning of the path of `base`, and an end of the path of
/// the bucket's own URL. The longest come first, because a server may have other caches, too.
fn other_places(base: &str, bucket_url: &str) -> Vec<String> {
    let (Ok(url), Ok(bucket)) = (Url::parse(base), Url::parse(bucket_url)) else { return Vec::new() };
    let parts = |url: &Url| -> Vec<String> {
        url.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let (own, bucket) = (parts(&url), parts(&bucket));
    let mut places = Vec::new();
    for kept in (0..=own.len()).rev() {
        for left_out in 0..=bucket.len() {
            let path = [&own[..kept], &bucket[left_out..]].concat();
            if path != own && !places.contains(&path) {
                places.push(path);
            }
        }
    }
    places.sort_by_key(|path| std::cmp::Reverse(path.len()));
    places.truncate(MAX_PLACES);
    let origin = &url[..url::Position::BeforePath];
    places
        .iter()
        .map(|path| format!("{origin}/{}", path.join("/")).trim_end_matches('/').to_owned())
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_searched_at_ends_of_its_path() {
        let places = other_places("http://c:1/cache", "http://s/cache/team/x");
        assert_eq!(places[0], "http://c:1/cache/cache/team/x");
        assert!(places.contains(&"http://c:1/cache/team/x".to_owned()), "{places:?}");
        assert!(!places.contains(&"http://c:1/cache".to_owned()) && places.len() <= MAX_PLACES);
        assert_eq!(other_places("https://cdn/wrong", "https://b.s3.amazonaws.com"), ["https://cdn"]);
        assert_eq!(other_places("https://cdn", "https://b.s3.amazonaws.com/p"), ["https://cdn/p"]);
        assert!(other_places("no URL", "https://cdn").is_empty());
    }
}
