//! Keeps caches that cannot be reached out of Nix's configuration.
//!
//! The guard writes a fragment that `nix.conf` includes. The fragment names the caches that answer.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use larder_hook::directories::make_directories;

use crate::base::error::{Area, Error, Result};
use crate::base::whole_file;
use crate::format::object_keys;
use crate::http::PublicReader;

/// How long a cache may take to answer one small request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Which of the guarded caches answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reachability {
    /// URLs of the caches that answer.
    pub reachable: Vec<String>,
    /// URLs of the other caches, each with the reason.
    pub unreachable: Vec<(String, String)>,
}

impl Reachability {
    /// The text of the fragment for `nix.conf`.
    pub fn fragment(&self) -> String {
        match &self.reachable[..] {
            [] => "# No cache can be reached.\n".to_owned(),
            urls => format!("extra-substituters = {}\n", urls.join(" ")),
        }
    }
}

/// Sends a request to each cache, to all at the same time.
pub async fn probe(urls: &[String]) -> Result<Reachability> {
    let reader = PublicReader::new(None)?;
    let probes = urls.iter().map(|url| async {
        // A second request: one lost answer must not restart the daemon.
        match answers(&reader, url).await {
            Err(_) => answers(&reader, url).await,
            answered => answered,
        }
    });
    let mut found = Reachability::default();
    for (url, answered) in urls.iter().zip(futures::future::join_all(probes).await) {
        match answered {
            Ok(()) => found.reachable.push(url.clone()),
            Err(reason) => found.unreachable.push((url.clone(), reason)),
        }
    }
    Ok(found)
}

/// Writes the fragment to `file`, whole or not at all. Returns false if the file had these contents.
pub fn write(file: &Path, text: &str) -> Result<bool> {
    if std::fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    replace(file, text).map_err(|error| {
        Error::permanent(Area::General, format!("cannot write `{}`", file.display())).because(error)
    })?;
    Ok(true)
}

/// Restarts a systemd unit if it runs: nix-daemon reads its configuration only at its start.
///
/// After a failure this removes `file`, so that the next call of [`write`] leads to another try.
pub fn restart(unit: &str, file: &Path) -> Result<()> {
    let failed = || {
        Error::permanent(Area::General, format!("cannot restart `{unit}`"))
            .hint(format!("run `systemctl restart {unit}`: Nix uses its old configuration until then"))
    };
    let status = Command::new("systemctl").args(["try-restart", unit]).status();
    let status = status.map_err(|error| failed().because(error))?;
    if !status.success() {
        let _ = std::fs::remove_file(file);
        return Err(failed());
    }
    Ok(())
}

fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        make_directories(directory)?;
    }
    whole_file::write(file, text.as_bytes(), 0o644)
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

    #[test]
    fn the_fragment_names_the_caches_that_answer() {
        let mut found = Reachability::default();
        assert_eq!(found.fragment(), "# No cache can be reached.\n");
        found.reachable = vec!["http://a".into(), "http://b".into()];
        assert_eq!(found.fragment(), "extra-substituters = http://a http://b\n");
    }
}
