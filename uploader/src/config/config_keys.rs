//! The table of all configuration keys.
//!
//! From this table come the typed keys that the program reads, the parsing of files, variables and flags, the output
//! of `larder config check`, the suggestions for unknown keys, and the table in `docs/configuration.md`.

use std::path::PathBuf;
use std::time::Duration;

use super::typed_key::KeyDefault::{Found, Unset, Value};
use super::typed_key::{ConfigKey, Row, Size, Typed};
use crate::base::error::{Area, Error, Result};

/// The key with which cache.nixos.org signs.
const NIXOS_ORG: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Outputs of NixOS that belong to one machine. They are useless to other machines and may reveal facts about this
/// machine.
const MACHINE_SPECIFIC: &str = "nixos-system-* system-path etc etc-* system-units user-units unit-*.service unit-*.timer unit-*.socket unit-*.mount unit-*.target unit-*.path unit-*.slice initrd-* stage-1-init.sh stage-2-init.sh users-groups.json activate local-cmds";

/// Makes a typed constant of each row, and the table of all rows.
macro_rules! config_keys {
    (@hook hook) => { true };
    (@hook) => { false };
    ($($constant:ident: $type:ty, $name:literal, $default:expr, $help:literal $(, $hook:ident)?;)*) => {
        $(
            #[doc = $help]
            pub const $constant: ConfigKey<$type> = ConfigKey::new(&Row {
                name: $name,
                kind: <$type as Typed>::KIND,
                default: $default,
                hook: config_keys!(@hook $($hook)?),
                help: $help,
            });
        )*

        /// The rows of all configuration keys.
        pub const ROWS: &[&Row] = &[$($constant.row()),*];
    };
}

config_keys! {
    BUCKET: Option<String>, "bucket", Unset,
        "the bucket to push to: `s3://BUCKET/PREFIX?endpoint=…&region=…&profile=…` or `file:///DIRECTORY`";
    PUBLIC_URL: Option<String>, "public-url", Found("the address of the bucket"),
        "the URL that clients read, if it is not the address of the bucket";
    SIGNING_KEY_FILES: Vec<String>, "signing-key-files", Unset,
        "files with secret keys, as `larder key generate` writes them; larder signs every path with each key and needs at least one";
    SIGNING_COMMAND: Vec<String>, "signing-command", Unset,
        "a program, with its arguments, that signs with a key that larder does not have: it reads the text to sign from its standard input and prints `NAME:BASE64`";
    SIGNING_COMMAND_KEY: Option<String>, "signing-command-key", Unset,
        "the public key, `NAME:BASE64`, of the key with which `signing-command` signs";
    CREDENTIALS_FILE: Option<PathBuf>, "credentials-file", Unset,
        "file with the credentials for the bucket, in the format of AWS or with lines such as `AWS_ACCESS_KEY_ID=…`";
    CA_FILE: Option<PathBuf>, "ca-file", Unset,
        "PEM file with a certificate authority that larder trusts in addition to those of the system";
    COMPRESSION: String, "compression", Value("zstd"),
        "compression of NARs: `zstd`, `xz` or `none`";
    COMPRESSION_LEVEL: Option<u64>, "compression-level", Found("zstd: adapts; xz: 6"),
        "zstd up to 22, xz up to 9; by default, larder lowers the level of zstd when the processors limit the push, and raises it when the network does";
    COMPRESSION_THREADS: Option<u64>, "compression-threads", Found("the number of cores, at most 8"),
        "threads that may compress one NAR of 8 MiB or more";
    JOBS: Option<u64>, "jobs", Found("the number of cores"),
        "NARs of 1 MiB or more that larder compresses at the same time, at most 64; larder always reads up to 16 smaller NARs at the same time";
    EXCLUDE: Vec<String>, "exclude", Value(MACHINE_SPECIFIC),
        "patterns of names; larder does not push matching paths, nor paths that refer to them";
    MAX_NAR_SIZE: Option<Size>, "max-nar-size", Unset,
        "larder does not push paths with a larger NAR, nor paths that refer to them";
    UPSTREAM_KEYS: Vec<String>, "upstream-keys", Value(NIXOS_ORG),
        "public keys of other caches; larder does not push paths that one of these keys has signed";
    PUSH_UPSTREAM: bool, "push-upstream", Value("false"),
        "push the paths of `upstream-keys` too, for a full mirror";
    TRUSTED_KEYS: Vec<String>, "trusted-keys", Unset,
        "public keys that the clients of this bucket trust; larder may sign and push paths that one of these keys has signed, and relies on narinfos in the bucket with such a signature";
    TRUST_BUCKET: bool, "trust-bucket", Value("false"),
        "share NARs that others have put into the bucket without a look at their contents";
    CLOSURE_TRUST: bool, "closure-trust", Value("true"),
        "sign every path in the closure of a path that was built here; `false` refuses the paths of the closure that have no evidence of their own";
    WRITE_LISTINGS: bool, "write-listings", Value("false"),
        "write a listing of the NAR, `<hash>.ls`, next to each narinfo";
    BUILD_LOGS: String, "build-logs", Value("successful"),
        "which build logs larder publishes as `log/<derivation>`: `all`, `successful` (of pushed outputs), `failed` or `none`; a log may hold what nobody should read";
    MAX_LOG_SIZE: Option<Size>, "max-log-size", Value("16 MiB"),
        "larder does not publish build logs with more text";
    PRIORITY: u64, "priority", Value("30"),
        "priority in a new `nix-cache-info`; clients ask the substituter with the lowest number first, and cache.nixos.org has 40";
    LINGER: u64, "linger", Value("60"),
        "seconds that `larder agent --exit-when-idle` waits for more work";
    MAX_PINNED: Option<Size>, "max-pinned", Unset,
        "the most that queued builds keep from garbage collection, as a sum of NAR sizes; above it, the agent lets the paths of the oldest builds go, and the builds stay queued";
    KEEP_WITHIN: Option<Duration>, "keep-within", Unset,
        "a collection keeps what was pushed, asked for by a push or downloaded within this time, with all that it refers to";
    MAX_SIZE: Option<Size>, "max-size", Unset,
        "the most bytes of narinfos and NARs that a collection leaves; what was needed least lately goes first";
    PIN_PATTERNS: Vec<String>, "pin-patterns", Unset,
        "pins for what this machine pushes, as `PIN=PATTERN`: `system/{host}=nixos-system-*` adds each pushed path of such a name to the pin, where `{host}` is the name of this machine";
    PIN_KEEP_LAST: Option<u64>, "pin-keep-last", Found("all"),
        "how many of the last generations of each pin of `pin-patterns` stay";
    STATE_DIR: Option<PathBuf>, "state-dir", Found("`/var/lib/larder` for root"),
        "the directory of the queue", hook;
    STORE_DIR: Option<String>, "store-dir", Found("`/nix/store`"),
        "the store directory that store paths begin with", hook;
    REAL_STORE_DIR: Option<PathBuf>, "real-store-dir", Found("`store-dir`"),
        "the directory that holds the files of the store, if it is not `store-dir`", hook;
    NIX_STATE_DIR: Option<PathBuf>, "nix-state-dir", Found("`/nix/var/nix`"),
        "the state directory of Nix", hook;
    NIX_LOG_DIR: Option<PathBuf>, "nix-log-dir", Found("`/nix/var/log/nix`"),
        "the log directory of Nix";
    DAEMON_SOCKET: Option<PathBuf>, "daemon-socket", Found("found as Nix does"),
        "the socket of nix-daemon";
    NIX_DAEMON: Option<PathBuf>, "nix-daemon", Found("found on `PATH`"),
        "the program that larder runs as `nix-daemon --stdio` instead of connecting to a socket";
    HOOK_STRICT: bool, "hook-strict", Value("false"),
        "let a build fail when the hook cannot queue its outputs", hook;
}

/// The row of the key with this name. The error suggests the nearest name.
pub(super) fn find(name: &str) -> Result<&'static Row> {
    ROWS.iter().find(|row| row.name == name).copied().ok_or_else(|| {
        let error = Error::permanent(Area::Config, format!("unknown key `{}`", name.escape_debug()));
        match nearest(name) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`larder config check` lists the keys"),
        }
    })
}

/// The name of the key that `name` is probably a misspelling of.
fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace('_', "-");
    ROWS.iter()
        .map(|row| (strsim::jaro_winkler(&name, row.name), row.name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
