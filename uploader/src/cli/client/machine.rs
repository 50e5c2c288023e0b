//! This machine as a client: what stands in Nix's configuration, and what is wrong with it.

use std::path::{Path, PathBuf};

use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::cli::output;
use crate::client::nix_conf::{NixConf, Origin};
use crate::format::cache_url::url_fault;
use crate::format::public_key::key_faults;

const UPSTREAM: &str = "https://cache.nixos.org";
const UPSTREAM_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Nix's configuration, as its daemon reads it when it starts.
pub(super) fn read() -> Result<NixConf> {
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

/// The caches that Nix asks.
pub(super) fn substituters(conf: &NixConf) -> Vec<String> {
    conf.words("substituters", &[UPSTREAM])
}

/// Says what is wrong; the faults that make Nix fail are an error.
pub(super) fn check(conf: &NixConf) -> Result<()> {
    let keys = conf.words("trusted-public-keys", &[UPSTREAM_KEY]);
    let mut faults = key_faults(keys.iter().map(String::as_str));
    let urls = substituters(conf);
    // Nix takes other stores there, too; what is no address at all, it does not.
    let urls_faults = urls.iter().filter(|url| !url.starts_with('/') && !url.starts_with("ssh"));
    faults.extend(urls_faults.filter_map(|url| Some(format!("the cache `{url}` {}", url_fault(url)?))));
    if !faults.is_empty() {
        let at = |name: &str| conf.origins(name).map(place).collect::<Vec<_>>();
        let places = [at("trusted-public-keys"), at("substituters")].concat().join(", ");
        return Err(Error::permanent(Area::Config, "Nix's configuration of caches is wrong")
            .because(faults.join("; "))
            .hint(format!("correct it in {places}, then restart nix-daemon: until then, what checks a signature may fail")));
    }
    let own = urls.iter().filter(|url| url.trim_end_matches('/') != UPSTREAM).count();
    let is = |name: &str, default: &str| {
        conf.words(name, &[]).last().cloned().unwrap_or_else(|| default.to_owned())
    };
    if own > 0 && is("fallback", "false") != "true" {
        output::warn(
            "`fallback` is not set: while a cache is away, builds that it has paths for fail; set `fallback = true`",
        );
    }
    if own > 0 && conf.last("connect-timeout").is_none() {
        output::warn(
            "`connect-timeout` is not set: a cache that does not answer is waited for as long as the version of Nix likes, up to for ever; set `connect-timeout = 3`",
        );
    }
    output::say(&format!(
        "Nix's configuration: {} and {} are well-formed",
        output::count(urls.len(), "cache"),
        output::count(keys.len(), "public key")
    ));
    Ok(())
}

fn place(origin: &Origin) -> String {
    format!("{}:{}", origin.file.display(), origin.line)
}

/// Says how to take a cache out of this machine, in the order in which nothing breaks.
pub(super) fn removal(conf: &NixConf, url: &str) -> Exit {
    let url = url.trim_end_matches('/');
    let bare = |text: &str| text.split('?').next().unwrap_or_default().trim_end_matches('/').to_owned();
    let lines = |name: &str| {
        conf.origins(name)
            .filter(|origin| origin.value.iter().any(|word| bare(word) == bare(url)))
            .map(place)
            .collect::<Vec<_>>()
    };
    let named = [lines("substituters"), lines("trusted-substituters")].concat();
    let mut steps = Vec::new();
    if named.is_empty() {
        let files = conf.files().iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        let looked = match files.is_empty() {
            true => "this machine has no nix.conf".to_owned(),
            false => format!("`{url}` is not in {}", files.join(", ")),
        };
        steps.push(format!("{looked}; look into users' ~/.config/nix/nix.conf and flakes' nixConfig, too"));
    } else {
        steps.push(format!("take `{url}` out of {}; on NixOS out of services.larder.client.caches, and rebuild (while the cache answers or with `--option substituters {UPSTREAM}`)", named.join(", ")));
    }
    steps.push(
        "restart nix-daemon, which reads its configuration only then: systemctl restart nix-daemon".into(),
    );
    let keys = conf.origins("trusted-public-keys").map(place).collect::<Vec<_>>().join(", ");
    let keys = if keys.is_empty() { keys } else { format!(" ({keys})") };
    steps.push(format!("take its public key out of trusted-public-keys{keys}, if no other cache is signed with it; paths that came from it stay valid, but `nix store verify` no longer knows who signed them"));
    steps.push("have Nix forget what it knows of it: rm ~/.cache/nix/binary-cache-v*.sqlite* (root's, for the daemon)".into());
    steps.push("when all clients have done this, switch the bucket off. Until then a bucket that is gone makes them slower; with `fallback = true` it fails no build".into());
    for (index, step) in steps.iter().enumerate() {
        output::data(&format!("{}. {step}", index + 1));
    }
    Exit::Ok
}
