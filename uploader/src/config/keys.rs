//! The table of all keys.

use super::value::{Kind, Value};
use crate::base::error::{Area, Error, Result};

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// As it stands in the file.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// The default, written as in a variable; empty for none.
    pub default: &'static str,
    /// What it means, in one line.
    pub help: &'static str,
}

impl Key {
    /// The variable that sets it: `LARDER_` and its name in capitals.
    pub fn variable(&self) -> String {
        format!("LARDER_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Its default value.
    pub fn default(&self) -> Option<Value> {
        if self.default.is_empty() {
            return None;
        }
        Value::from_text(self, self.default).ok()
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, kind, default, help }
}

/// The key under which cache.nixos.org signs.
const UPSTREAM: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Outputs of NixOS that belong to one machine: they are of no use to another, and may tell about this one.
const MACHINE_SPECIFIC: &str = "nixos-system-* system-path etc etc-* system-units user-units unit-*.service unit-*.timer unit-*.socket unit-*.mount unit-*.target unit-*.path unit-*.slice initrd-* stage-1-init.sh stage-2-init.sh users-groups.json activate local-cmds";

/// Every key.
pub const KEYS: &[Key] = &[
    key(
        "bucket",
        Kind::Text,
        "",
        "where to push: s3://bucket/prefix?endpoint=…&region=…&profile=…, or file:///directory",
    ),
    key("public-url", Kind::Text, "", "where clients read, if not at the bucket's own address"),
    key("signing-key-files", Kind::List, "", "files with secret keys, as `larder key generate` writes them"),
    key(
        "credentials-file",
        Kind::Text,
        "",
        "file with the bucket's credentials (AWS format, or AWS_ACCESS_KEY_ID=… lines)",
    ),
    key("ca-file", Kind::Text, "", "PEM file with a certificate authority to trust besides the system's"),
    key("compression", Kind::Text, "zstd", "zstd, xz or none"),
    key(
        "compression-level",
        Kind::Number,
        "",
        "zstd 1 to 22, xz 0 to 9 (6); default for zstd: by what limits the push",
    ),
    key(
        "compression-threads",
        Kind::Number,
        "",
        "threads for one large path; default: the machine's cores, 8 at most",
    ),
    key(
        "jobs",
        Kind::Number,
        "",
        "how many paths of 1 MiB and more are worked on at the same time; default: the machine's cores",
    ),
    key(
        "exclude",
        Kind::List,
        MACHINE_SPECIFIC,
        "patterns on names; matching outputs, and what refers to them, are not pushed",
    ),
    key("max-nar-size", Kind::Size, "", "outputs above this size, and what refers to them, are not pushed"),
    key(
        "upstream-keys",
        Kind::List,
        UPSTREAM,
        "paths signed by these public keys are upstream's and not pushed",
    ),
    key("push-upstream", Kind::Switch, "false", "push what upstream has too, for a full mirror"),
    key(
        "trusted-keys",
        Kind::List,
        "",
        "paths signed by these public keys may be signed and pushed by `larder push`",
    ),
    key("write-listings", Kind::Switch, "false", "write a .ls listing beside each narinfo"),
    key(
        "priority",
        Kind::Number,
        "30",
        "written into a new nix-cache-info; lower is asked first, cache.nixos.org has 40",
    ),
    key("linger", Kind::Number, "60", "seconds that `agent --exit-when-idle` waits for more work"),
    key("state-dir", Kind::Text, "", "the queue's directory; /var/lib/larder for root"),
    key("store-dir", Kind::Text, "", "the store directory in store paths; /nix/store"),
    key("real-store-dir", Kind::Text, "", "where the store's files are, if elsewhere"),
    key("nix-state-dir", Kind::Text, "", "Nix's state; /nix/var/nix"),
    key("nix-log-dir", Kind::Text, "", "Nix's logs; /nix/var/log/nix"),
    key("daemon-socket", Kind::Text, "", "the nix-daemon's socket"),
    key("nix-daemon", Kind::Text, "", "program to run as `nix-daemon --stdio`, instead of a socket"),
    key("hook-strict", Kind::Switch, "false", "let a build fail when its outputs cannot be queued"),
];

/// The key of that name; the error names the nearest.
pub(super) fn find(name: &str) -> Result<&'static Key> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let error = Error::permanent(Area::Config, format!("unknown key `{}`", name.escape_debug()));
        match nearest(name, KEYS.iter().map(|key| key.name)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`larder config check` lists the keys"),
        }
    })
}

/// The candidate that `name` was probably meant to be.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('_', "-");
    candidates
        .map(|candidate| (strsim::jaro_winkler(&name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
