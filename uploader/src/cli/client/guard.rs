//! Taking caches that cannot be reached out of Nix's configuration, and putting them back.

use std::path::Path;
use std::time::Duration;

use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::cli::output;
use crate::format::object_keys;
use crate::http::PublicReader;

/// How long a cache may take to answer one small question.
const ANSWER: Duration = Duration::from_secs(4);

/// Looks which caches answer, and writes them to `file`, a fragment that nix.conf includes. Where that changed, the
/// unit is restarted, since Nix's daemon reads its configuration only when it starts.
pub(super) async fn run(file: &Path, urls: &[String], restart: Option<&str>) -> Result<Exit> {
    let reader = PublicReader::new(None)?;
    let looks = urls.iter().map(|url| async {
        // Twice: one lost answer must not restart the daemon.
        match answers(&reader, url).await {
            Err(_) => answers(&reader, url).await,
            there => there,
        }
    });
    let mut there = Vec::new();
    for (url, look) in urls.iter().zip(futures::future::join_all(looks).await) {
        match look {
            Ok(()) => there.push(url.as_str()),
            Err(why) => output::say(&format!("{url} is out of reach: {why}")),
        }
    }
    let text = match &there[..] {
        [] => "# No cache can be reached.\n".to_owned(),
        urls => format!("extra-substituters = {}\n", urls.join(" ")),
    };
    if std::fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(Exit::Ok);
    }
    write(file, &text).map_err(|error| {
        Error::permanent(Area::General, format!("cannot write `{}`", file.display())).because(error)
    })?;
    output::say(&format!(
        "{} of {} in `{}` now",
        there.len(),
        output::count(urls.len(), "cache"),
        file.display()
    ));
    if let Some(unit) = restart {
        let failed = || {
            Error::permanent(Area::General, format!("cannot restart `{unit}`"))
                .hint(format!("`systemctl restart {unit}` makes the change take effect"))
        };
        let status = std::process::Command::new("systemctl").args(["try-restart", unit]).status();
        if !status.map_err(|error| failed().because(error))?.success() {
            // The next look is to try it again.
            let _ = std::fs::remove_file(file);
            return Err(failed());
        }
    }
    Ok(Exit::Ok)
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let draft = file.with_extension("new");
    std::fs::write(&draft, text)?;
    std::fs::rename(draft, file)
}

/// Whether a cache answers like one. What it says of permissions is not the question here.
async fn answers(reader: &PublicReader, url: &str) -> std::result::Result<(), String> {
    let target = probe(url).ok_or("its address cannot be looked at")?;
    let answer = tokio::time::timeout(ANSWER, reader.get(&target)).await;
    match answer.map_err(|_| format!("no answer within {} seconds", ANSWER.as_secs()))? {
        Ok(answer) if answer.status < 500 && !(url.starts_with("file:") && answer.status == 404) => Ok(()),
        Ok(answer) => Err(format!("status {}", answer.status)),
        Err(error) => Err(error.to_string()),
    }
}

/// Where a cache's `nix-cache-info` is read.
fn probe(url: &str) -> Option<String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let base = base.trim_end_matches('/');
    let Some(bucket) = base.strip_prefix("s3://") else {
        return Some(format!("{base}/{}", object_keys::CACHE_INFO));
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
    Some(format!("{}/{bucket}/{}", endpoint.trim_end_matches('/'), object_keys::CACHE_INFO))
}

#[cfg(test)]
mod tests {
    use super::probe;

    #[test]
    fn caches_are_looked_at_where_clients_read_them() {
        for (url, expected) in [
            ("http://c/x", "http://c/x/nix-cache-info"),
            ("https://c/?priority=10", "https://c/nix-cache-info"),
            ("s3://b?endpoint=http://c:8333&region=x", "http://c:8333/b/nix-cache-info"),
            ("s3://b?scheme=http&endpoint=c:8333", "http://c:8333/b/nix-cache-info"),
            ("file:///srv/cache", "file:///srv/cache/nix-cache-info"),
        ] {
            assert_eq!(probe(url).as_deref(), Some(expected));
        }
    }
}
