//! Asks caches whether they can be reached, and writes the verdict for the guard.
//!
//! This reads answers from the network, so it needs no rights: root only reads the [verdict](super::verdict).

use std::path::Path;
use std::time::Duration;

use super::verdict::Verdict;
use crate::base::error::{Area, Error, Result};
use crate::base::file::replace;
use crate::format::object_keys;
use crate::http::PublicReader;

/// How long a cache may take to answer one small request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Sends a request to each cache, to all at the same time. For each cache that cannot be reached, the result has the
/// reason.
pub async fn probe(urls: &[String]) -> Result<Vec<Option<String>>> {
    let reader = PublicReader::new(None)?;
    let probes = urls.iter().map(|url| async {
        // A second request: one lost answer must not restart the daemon.
        match answers(&reader, url).await {
            Err(_) => answers(&reader, url).await,
            answered => answered,
        }
    });
    Ok(futures::future::join_all(probes).await.into_iter().map(std::result::Result::err).collect())
}

/// Removes an earlier verdict, so that the guard cannot take it for a new one if the probe ends without a verdict.
pub fn forget(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot_write(file, error)),
        _ => Ok(()),
    }
}

/// Writes a verdict to `file`, whole or not at all.
pub fn write(file: &Path, verdict: &Verdict) -> Result<()> {
    replace(file, &verdict.to_text()).map_err(|error| cannot_write(file, error))
}

fn cannot_write(file: &Path, error: std::io::Error) -> Error {
    Error::permanent(Area::General, format!("cannot write `{}`", file.display())).because(error)
}

/// Whether a cache answers a request for its `nix-cache-info`. A refusal for lack of rights is an answer.
async fn answers(reader: &PublicReader, url: &str) -> std::result::Result<(), String> {
    let target = cache_info_url(url);
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, reader.get(&target)).await;
    match answer.map_err(|_| format!("no answer within {} seconds", ANSWER_TIMEOUT.as_secs()))? {
        Ok(answer) if answer.status < 500 && !(url.starts_with("file:") && answer.status == 404) => Ok(()),
        Ok(answer) => Err(format!("status {}", answer.status)),
        Err(error) => Err(error.to_string()),
    }
}

/// The URL of a cache's `nix-cache-info`, as Nix reads it.
fn cache_info_url(url: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let base = base.trim_end_matches('/');
    let Some(bucket) = base.strip_prefix("s3://") else {
        return format!("{base}/{}", object_keys::CACHE_INFO);
    };
    let parameter = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
            .filter(|value| !value.is_empty())
    };
    let endpoint = parameter("endpoint").unwrap_or("s3.amazonaws.com");
    let endpoint = if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("{}://{endpoint}", parameter("scheme").unwrap_or("https"))
    };
    format!("{}/{bucket}/{}", endpoint.trim_end_matches('/'), object_keys::CACHE_INFO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_reads_a_cache_at_the_url_that_clients_read() {
        for (url, expected) in [
            ("http://c/x", "http://c/x/nix-cache-info"),
            ("https://c/?priority=10", "https://c/nix-cache-info"),
            ("s3://b?endpoint=http://c:8333&region=x", "http://c:8333/b/nix-cache-info"),
            ("s3://b?scheme=http&endpoint=c:8333", "http://c:8333/b/nix-cache-info"),
            ("file:///srv/cache", "file:///srv/cache/nix-cache-info"),
        ] {
            assert_eq!(cache_info_url(url), expected);
        }
    }
}
