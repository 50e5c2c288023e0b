//! What to say to parameters of an address that larder does not take.

use crate::base::error::{Area, Error};

/// The parameters that larder takes.
pub(crate) const OWN: [&str; 6] = ["endpoint", "scheme", "region", "profile", "addressing-style", "imds"];

/// Nix's own parameters, and where larder keeps what they decide.
const NIX: &[(&[&str], &str)] = &[
    (
        &["compression", "compression-level", "parallel-compression"],
        "compression is set in larder's configuration, not in the address",
    ),
    (
        &["secret-key", "secret-keys"],
        "the files with the signing keys are named in larder's configuration, not in the address",
    ),
    (
        &["priority", "want-mass-query"],
        "these stand in the bucket's `nix-cache-info`, which `larder init` writes",
    ),
    (
        &["write-nar-listing", "index-debug-info"],
        "listings and debug info are switched in larder's configuration, not in the address",
    ),
    (
        &["ls-compression", "log-compression", "narinfo-compression"],
        "larder writes these objects uncompressed, which every client reads; leave the parameter out",
    ),
    (
        &["multipart-upload", "multipart-threshold", "multipart-chunk-size", "buffer-size"],
        "larder sizes the parts of an upload itself; leave the parameter out",
    ),
    (&["storage-class"], "larder leaves the storage class to the bucket; leave the parameter out"),
    (
        &["trusted", "path-info-cache-size", "local-nar-cache", "store", "system-features"],
        "this is for those who read; it belongs in the client's `substituters`",
    ),
];

/// The error for a parameter that larder does not take. The value is not shown.
pub(crate) fn refuse_parameter(what: String, name: &str) -> Error {
    let shown: String = name.chars().take(40).collect();
    let error = Error::permanent(Area::Config, what)
        .because(format!("larder takes no parameter `{}`", shown.escape_debug()));
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
            error.hint(format!("`{known}` is Nix's, and larder does not take it in an address"))
        }
        None => error.hint(format!("larder takes `{}`", OWN.join("`, `"))),
    }
}
