//! Texts that tell a person how to add a cache to a machine and how to remove it.

use url::{Host, Url};

use super::configuration::DEFAULT_CACHE;
use super::nix_conf::{NixConf, Origin};

/// The lines for `nix.conf`, and the same as options of NixOS, that make a machine read the cache at `url`. The cache's
/// paths are signed with one of the public keys `keys`.
pub fn adding(url: &str, keys: &[String]) -> String {
    let joined = keys.join(" ");
    let quoted = keys.iter().map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(" ");
    format!(
        r#"# /etc/nix/nix.conf. Restart nix-daemon afterwards.
extra-substituters = {url}
extra-trusted-public-keys = {joined}
# An unavailable cache must not break builds: Nix builds instead, and does not wait long for a connection. Nix 2.8.0
# fails nevertheless if it knows the cache. There, read the cache through `larder relay` (docs/clients.md).
fallback = true
connect-timeout = 3
stalled-download-timeout = 15
download-attempts = 3
# If Nix asks for a path before it is pushed, the path counts as absent for this many seconds (default 3600). A lower
# value shows fresh paths sooner and costs more requests. To make Nix forget at once:
# rm ~/.cache/nix/binary-cache-v*.sqlite* (of root, for the daemon).
narinfo-cache-negative-ttl = 600

# NixOS:
nix.settings = {{
  extra-substituters = [ "{url}" ];
  extra-trusted-public-keys = [ {quoted} ];
  fallback = true;
  connect-timeout = 3;
  stalled-download-timeout = 15;
  download-attempts = 3;
  narinfo-cache-negative-ttl = 600;
}};"#
    )
}

/// What a person has to know about the URL of a cache before other machines use it, if anything.
pub fn remark(url: &str) -> Option<String> {
    let parsed = Url::parse(url).ok()?;
    let local = match parsed.host() {
        _ if parsed.scheme() == "file" => true,
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
        Some(Host::Ipv6(address)) => address.is_loopback() || address.is_unspecified(),
        None => false,
    };
    match parsed.scheme() {
        _ if local => Some(format!(
            "`{url}` works only on this machine: set `public-url` to the URL at which other machines read the cache, for example `http://HOST:PORT/BUCKET`"
        )),
        "http" => Some(format!(
            "`{url}` is not encrypted: others on the network can see what is read, hold paths back, and give old ones; `https` prevents that (docs/trust.md)"
        )),
        _ => None,
    }
}

/// The steps that remove the cache at `url` from the machine with this configuration. In this order, no step breaks
/// a build.
pub fn removing(conf: &NixConf, url: &str) -> Vec<String> {
    vec![
        remove_substituter(conf, url.trim_end_matches('/')),
        "restart nix-daemon, because it reads its configuration only at its start: systemctl restart nix-daemon".into(),
        remove_key(conf),
        "make Nix forget what it has cached about the cache: rm ~/.cache/nix/binary-cache-v*.sqlite* (of root, for the daemon)".into(),
        "after these steps on all clients, switch the bucket off. A bucket that disappears earlier makes clients slower; with `fallback = true` no build fails".into(),
    ]
}

fn remove_substituter(conf: &NixConf, url: &str) -> String {
    let names_url =
        |origin: &&Origin| origin.value.iter().any(|word| without_query(word) == without_query(url));
    let places: Vec<_> = ["substituters", "trusted-substituters"]
        .into_iter()
        .flat_map(|name| conf.origins(name).filter(names_url).map(Origin::to_string))
        .collect();
    if !places.is_empty() {
        return format!(
            "remove `{url}` from {}; on NixOS remove it from services.larder.client.caches and rebuild (while the cache answers, or with `--option substituters {DEFAULT_CACHE}`)",
            places.join(", ")
        );
    }
    let files: Vec<_> = conf.files().iter().map(|file| file.display().to_string()).collect();
    let found = match files.is_empty() {
        true => "this machine has no nix.conf".to_owned(),
        false => format!("`{url}` is not in {}", files.join(", ")),
    };
    format!("{found}; search users' ~/.config/nix/nix.conf and flakes' nixConfig, too")
}

fn remove_key(conf: &NixConf) -> String {
    let places = conf.origins("trusted-public-keys").map(Origin::to_string).collect::<Vec<_>>().join(", ");
    let places = if places.is_empty() { places } else { format!(" ({places})") };
    format!(
        "remove its public key from trusted-public-keys{places}, unless another cache is signed with it; substituted paths stay valid, but `nix store verify` cannot check their signatures any more"
    )
}

fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default().trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_serve_no_other_machine_and_plain_http_have_a_remark() {
        for url in [
            "http://127.0.0.1:8333/c",
            "https://localhost/c",
            "http://[::1]:1",
            "http://0.0.0.0:1/c",
            "file:///srv/c",
        ] {
            assert!(
                remark(url)
                    .is_some_and(|text| text.contains("only on this machine") && text.contains("public-url")),
                "{url}"
            );
        }
        assert!(remark("http://cache.lan:8333/c").is_some_and(|text| text.contains("not encrypted")));
        assert_eq!(remark("https://cache.example.org/c"), None);
        assert_eq!(remark("s3://bucket?endpoint=http://127.0.0.1:1"), None);
    }
}
