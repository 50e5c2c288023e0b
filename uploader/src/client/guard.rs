//! Keeps caches that cannot be reached out of Nix's configuration.
//!
//! The guard writes a fragment that `nix.conf` includes. The fragment names the caches that answer. The guard runs as
//! root, so it asks no cache itself: it reads a [verdict](super::verdict).

use std::path::Path;
use std::process::Command;

use super::verdict::Verdict;
use crate::base::error::{Area, Error, Result};
use crate::base::file::replace;

/// The text of the fragment for `nix.conf`: those of the caches at `urls` that can be reached.
pub fn fragment(urls: &[String], verdict: &Verdict) -> String {
    let reachable = urls.iter().zip(&verdict.0).filter(|(_, reachable)| **reachable);
    let urls: Vec<_> = reachable.map(|(url, _)| url.as_str()).collect();
    match urls[..] {
        [] => "# No cache can be reached.\n".to_owned(),
        _ => format!("extra-substituters = {}\n", urls.join(" ")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fragment_names_the_caches_that_answer() {
        let urls = ["http://a", "http://b", "http://c"].map(str::to_owned);
        let text = |verdict: [bool; 3]| fragment(&urls, &Verdict(verdict.to_vec()));
        assert_eq!(text([false; 3]), "# No cache can be reached.\n");
        assert_eq!(text([true, false, true]), "extra-substituters = http://a http://c\n");
    }
}
