//! Messages about parameters of an address that larder does not accept.

use crate::base::error::{Area, Error};

/// The parameters that larder accepts.
pub(crate) const OWN: [&str; 6] = ["endpoint", "scheme", "region", "profile", "addressing-style", "imds"];

/// Parameters of Nix's stores, and the hints where larder takes these settings from.
const NIX: &[(&[&str], &str)] = &[
    (
        &["compression", "compression-level", "parallel-compression"],
        "larder's configuration sets the compression; leave the parameter out",
    ),
    (
        &["secret-key", "secret-keys"],
        "larder's configuration names the files with the signing keys; leave the parameter out",
    ),
    (
        &["priority", "want-mass-query"],
        "`larder init` writes these settings to the bucket's `nix-cache-info`; leave the parameter out",
    ),
    (
        &["write-nar-listing", "index-debug-info"],
        "larder's configuration switches listings and debug info; leave the parameter out",
    ),
    (
        &["ls-compression", "log-compression", "narinfo-compression"],
        "larder writes these objects uncompressed for all clients; leave the parameter out",
    ),
    (
        &["multipart-upload", "multipart-threshold", "multipart-chunk-size", "buffer-size"],
        "larder chooses the size of parts itself; leave the parameter out",
    ),
    (&["storage-class"], "the bucket decides about the storage class; leave the parameter out"),
    (
        &["trusted", "path-info-cache-size", "local-nar-cache", "store", "system-features"],
        "the parameter is for readers; write it in the client's `substituters`",
    ),
];

/// The error about a parameter that larder does not accept. It does not show the value.
pub(crate) fn refuse_parameter(what: String, name: &str) -> Error {
    let shown: String = name.chars().take(40).collect();
    let error = Error::permanent(Area::Config, what)
        .because(format!("larder accepts no parameter `{}`", shown.escape_debug()));
    if let Some((_, hint)) = NIX.iter().find(|(names, _)| names.contains(&name)) {
        return error.hint(*hint);
    }
    let known = OWN.iter().chain(NIX.iter().flat_map(|(names, _)| names.iter()));
    let nearest = known
        .map(|known| (strsim::normalized_damerau_levenshtein(known, &name.to_lowercase()), *known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.5);
    match nearest {
        Some((_, known)) if OWN.contains(&known) => error.hint(format!("did you mean `{known}`?")),
        Some((_, known)) => {
            error.hint(format!("larder does not accept Nix's parameter `{known}` in an address"))
        }
        None => error.hint(format!("larder accepts `{}`", OWN.join("`, `"))),
    }
}
