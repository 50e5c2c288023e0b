//! The rules of the layers.

use std::collections::BTreeMap;

use super::graph::Graph;
use super::source::{Module, Named, Source};

/// A room of the uploader: a folder directly below `src`.
pub(crate) struct Room {
    /// The name of the folder.
    pub(crate) name: &'static str,
    /// The job, for the picture.
    pub(crate) job: &'static str,
    /// The rooms that it may import.
    pub(crate) may_import: &'static [&'static str],
}

const fn room(name: &'static str, job: &'static str, may_import: &'static [&'static str]) -> Room {
    Room { name, job, may_import }
}

/// The rooms, from the ground up.
pub(crate) const ROOMS: &[Room] = &[
    room("base", "errors, waiting times, locks", &[]),
    room("format", "the binary-cache format, pure", &["base"]),
    room("http", "HTTP, trust, diagnosis", &["base"]),
    room("protocol", "how writers and collectors share a bucket, pure", &["base", "format"]),
    room("config", "keys and values of the configuration", &["base", "format"]),
    room("store", "the local Nix store", &["base", "format"]),
    room("bucket", "where objects live", &["base", "http"]),
    room("session", "a writer's session with a bucket", &["base", "format", "bucket", "protocol"]),
    room("survey", "what a bucket holds", &["base", "format", "bucket"]),
    room("push", "decide, send, publish", &["base", "format", "store", "bucket", "session", "survey"]),
    room("agent", "works the queue off", &["base", "format", "store", "push"]),
    room(
        "upkeep",
        "keeps a bucket whole and small",
        &["base", "format", "protocol", "http", "store", "bucket", "session", "survey", "push"],
    ),
    room("client", "a machine that reads", &["base", "format", "http"]),
    room("init", "prepares a bucket", &["base", "format", "bucket"]),
    room("setup", "installs hook and agent", &["base", "bucket", "config", "client"]),
    room(
        "cli",
        "parses, calls, prints",
        &[
            "agent", "base", "bucket", "client", "config", "format", "http", "init", "push", "session",
            "setup", "store", "survey", "upkeep",
        ],
    ),
];

/// Paths that mean I/O.
const IO: &[&str] = &[
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::env",
    "std::io::stdin",
    "tokio",
    "hyper",
    "hyper_util",
    "rustix",
    "inotify",
    "walkdir",
];
/// Crates that know Nix.
const NIX: &[&str] = &["nix_derivation", "nix_narinfo", "nix_archive"];
/// Crates that know S3 or HTTP.
const S3: &[&str] =
    &["aws_config", "aws_credential_types", "aws_sdk_s3", "aws_sigv4", "http", "hyper", "rustls"];

/// What the files below a folder may not import: paths of other crates, and files of this crate.
struct Ban {
    folder: &'static str,
    crates: &'static [&'static [&'static str]],
    files: &'static [&'static str],
}

const BANS: &[Ban] = &[
    Ban { folder: "format/", crates: &[IO, S3], files: &[] },
    Ban { folder: "protocol/", crates: &[IO, S3], files: &[] },
    Ban { folder: "bucket/", crates: &[NIX], files: &[] },
    Ban { folder: "store/", crates: &[S3], files: &[] },
    Ban {
        folder: "push/decide/",
        crates: &[IO, S3],
        files: &["bucket/", "http/", "session/", "store/daemon", "store/nar", "survey/n"],
    },
    Ban {
        folder: "push/publish/order.rs",
        crates: &[IO, S3, &["std::io"]],
        files: &["bucket/", "http/", "session/", "store/", "survey/"],
    },
];

/// Every import that the rules do not allow, in words.
pub(crate) fn violations(modules: &BTreeMap<Module, Source>, graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (file, targets) in graph {
        let Some((name, _)) = file.split_once('/') else { continue };
        if name == "fuzzing" {
            continue;
        }
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            found.push(format!("`{name}/` is a room without rules"));
            continue;
        };
        for target in targets {
            let other = target.split('/').next().unwrap_or_default();
            if other != name && !room.may_import.contains(&other) {
                found.push(format!("`{file}` imports `{target}`: `{name}/` may not import `{other}/`"));
            }
            for ban in BANS.iter().filter(|ban| file.starts_with(ban.folder)) {
                if ban.files.iter().any(|banned| target.starts_with(banned)) {
                    found.push(format!("`{file}` imports `{target}`, which `{}` may not", ban.folder));
                }
            }
        }
    }
    for source in modules.values() {
        for ban in BANS.iter().filter(|ban| source.file.starts_with(ban.folder)) {
            let outside = source.named.iter().filter_map(outside);
            let banned = outside
                .filter(|path| ban.crates.iter().copied().flatten().any(|banned| begins(path, banned)));
            found.extend(
                banned.map(|path| {
                    format!("`{}` imports `{path}`, which `{}` may not", source.file, ban.folder)
                }),
            );
        }
    }
    found.sort();
    found.dedup();
    found
}

fn outside(named: &Named) -> Option<String> {
    match named {
        Named::Outside(path) => Some(path.join("::")),
        Named::Inside(_) => None,
    }
}

fn begins(path: &str, start: &str) -> bool {
    path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The file of the uploader that prints. It escapes what controls a terminal.
const PRINTS: &str = "cli/output/terminal.rs";

/// The places outside of that file and of `main.rs` that print.
pub(crate) fn printing(source: &Source) -> Vec<String> {
    if source.file == PRINTS || source.file == "main.rs" {
        return Vec::new();
    }
    let macros = source
        .macros
        .iter()
        .filter(|name| matches!(name.as_str(), "print" | "println" | "eprint" | "eprintln" | "dbg"));
    let streams = source.named.iter().filter_map(outside);
    let streams =
        streams.filter(|path| ["std::io::stdout", "std::io::stderr"].iter().any(|start| begins(path, start)));
    let found = macros.map(|name| format!("{name}!")).chain(streams);
    found.map(|what| format!("`{}` prints by `{what}`", source.file)).collect()
}

/// The largest file in bytes, and the longest function in lines.
const LARGEST: usize = 20_000;
const LONGEST: usize = 60;

/// A file or a function that is too long.
pub(crate) fn sizes(source: &Source) -> Vec<String> {
    let long = source.functions.iter().filter(|(_, lines)| *lines > LONGEST);
    let mut found: Vec<_> =
        long.map(|(name, lines)| format!("`{name}` in `{}` has {lines} lines", source.file)).collect();
    if source.size > LARGEST {
        found.push(format!("`{}` has {} bytes", source.file, source.size));
    }
    found
}
