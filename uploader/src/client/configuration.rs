//! Judges the caches and public keys in Nix's configuration of this machine.

use std::path::{Path, PathBuf};

use super::nix_conf::{NixConf, Origin};
use crate::base::error::{Area, Error, Result};
use crate::format::cache_url::url_fault;
use crate::format::public_key::key_faults;

/// The cache that Nix asks by default.
pub const DEFAULT_CACHE: &str = "https://cache.nixos.org";
/// The public key of [`DEFAULT_CACHE`].
const DEFAULT_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

const NO_FALLBACK: &str = "`fallback` is not set: while a cache is unavailable, builds of paths that it has fail; set `fallback = true`";
const NO_CONNECT_TIMEOUT: &str = "`connect-timeout` is not set: Nix may wait without limit for a cache that does not answer; set `connect-timeout = 3`";

/// Nix's configuration of caches, without faults that make Nix fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The number of caches.
    pub caches: usize,
    /// The number of public keys.
    pub keys: usize,
    /// Settings that make builds fail or wait while a cache is unavailable, for people.
    pub warnings: Vec<&'static str>,
}

/// Reads Nix's configuration as its daemon reads it at its start.
pub fn read() -> Result<NixConf> {
    let dir = std::env::var_os("NIX_CONF_DIR").map_or_else(|| PathBuf::from("/etc/nix"), PathBuf::from);
    let file = dir.join("nix.conf");
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    NixConf::read(&file, &read).map_err(|error| {
        Error::permanent(Area::Config, format!("cannot read `{}`", file.display())).because(error)
    })
}

/// The URLs of the substituters that Nix asks.
pub fn substituters(conf: &NixConf) -> Vec<String> {
    conf.words("substituters", &[DEFAULT_CACHE])
}

/// Judges the caches and keys of a configuration.
///
/// Fails if a key or a URL makes Nix fail. The error names the faults and the lines.
pub fn judge(conf: &NixConf) -> Result<Judgement> {
    let keys = conf.words("trusted-public-keys", &[DEFAULT_KEY]);
    let caches = substituters(conf);
    let mut faults = key_faults(keys.iter().map(String::as_str));
    faults.extend(caches.iter().filter_map(|url| substituter_fault(url)));
    if !faults.is_empty() {
        return Err(faulty(conf, &faults));
    }
    let has_own_cache = caches.iter().any(|url| url.trim_end_matches('/') != DEFAULT_CACHE);
    let falls_back = conf.words("fallback", &[]).last().is_some_and(|value| value == "true");
    let mut warnings = Vec::new();
    if has_own_cache && !falls_back {
        warnings.push(NO_FALLBACK);
    }
    if has_own_cache && conf.last("connect-timeout").is_none() {
        warnings.push(NO_CONNECT_TIMEOUT);
    }
    Ok(Judgement { caches: caches.len(), keys: keys.len(), warnings })
}

/// Why Nix cannot use a substituter. Local directories and SSH stores are substituters, too.
fn substituter_fault(url: &str) -> Option<String> {
    if url.starts_with('/') || url.starts_with("ssh") {
        return None;
    }
    url_fault(url).map(|fault| format!("the cache `{url}` {fault}"))
}

fn faulty(conf: &NixConf, faults: &[String]) -> Error {
    let lines = |name: &str| conf.origins(name).map(Origin::to_string).collect::<Vec<_>>();
    let places = [lines("trusted-public-keys"), lines("substituters")].concat().join(", ");
    Error::permanent(Area::Config, "Nix's configuration of caches has faults")
        .because(faults.join("; "))
        .hint(format!(
            "correct {places}, then restart nix-daemon: until then, Nix may fail to check signatures"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> NixConf {
        NixConf::read(Path::new("/n"), &|path| Ok((path == Path::new("/n")).then(|| text.to_owned())))
            .unwrap()
    }

    #[test]
    fn caches_of_ones_own_need_settings_for_their_absence() {
        assert_eq!(judge(&conf("")).unwrap(), Judgement { caches: 1, keys: 1, warnings: vec![] });
        let own = "extra-substituters = http://c/x /srv/store ssh://host\n";
        let judgement = judge(&conf(own)).unwrap();
        assert_eq!((judgement.caches, judgement.warnings), (4, vec![NO_FALLBACK, NO_CONNECT_TIMEOUT]));
        let judgement = judge(&conf(&format!("{own}fallback = true\nconnect-timeout = 3\n"))).unwrap();
        assert!(judgement.warnings.is_empty());
    }

    #[test]
    fn faults_are_named_with_their_lines() {
        let error = judge(&conf("\nsubstituters = c:8333\ntrusted-public-keys = x\n")).unwrap_err();
        assert_eq!(error.area(), Area::Config);
        assert!(error.to_string().contains("c:8333"), "{error}");
        assert!(error.hint_text().unwrap().contains("/n:3, /n:2"), "{:?}", error.hint_text());
    }
}
