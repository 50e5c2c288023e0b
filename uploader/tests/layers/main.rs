//! The layers of the uploader and of the hook: which room may import which, where I/O and printing happen, and that no imports
//! form a circle. The picture of the layers in `ARCHITECTURE.md` is drawn from the same reading of the code; with
//! `LARDER_WRITE_DOCS=1`, the test writes it.

mod graph;
mod rules;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use graph::{Graph, circle, collapse, imports, is_index, reduce};
use rules::{ROOMS, violations};
use source::{Module, Source, parse, read_crate};

fn source_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src")
}

#[test]
fn every_import_is_allowed() {
    let modules = read_crate(&source_of("uploader"));
    let found = violations(&modules, &imports(&modules));
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn only_one_file_prints() {
    for name in ["uploader", "hook"] {
        let modules = read_crate(&source_of(name));
        let found: Vec<_> = modules.values().flat_map(rules::printing).collect();
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }
}

#[test]
fn no_imports_form_a_circle() {
    for name in ["uploader", "hook"] {
        let graph = imports(&read_crate(&source_of(name)));
        let found = circles(&graph);
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }
}

/// The circles between files, and between the entries of each folder.
fn circles(graph: &Graph) -> Vec<String> {
    let mut folders: Vec<_> = graph
        .keys()
        .filter_map(|file| file.rsplit_once('/'))
        .map(|(folder, _)| format!("{folder}/"))
        .collect();
    folders.push(String::new());
    folders.sort();
    folders.dedup();
    let between = folders.iter().filter_map(|folder| {
        let circle = circle(&collapse(graph, folder))?;
        Some(format!("in `{folder}`: {}", circle.join(" imports ")))
    });
    circle(graph).map(|files| files.join(" imports ")).into_iter().chain(between).collect()
}

#[test]
fn files_and_functions_can_be_taken_in_at_once() {
    let mut found = Vec::new();
    for name in ["uploader", "hook"] {
        for source in read_crate(&source_of(name)).values() {
            found.extend(rules::sizes(source));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_picture_in_the_architecture_is_that_of_the_code() {
    let rooms = collapse(&imports(&read_crate(&source_of("uploader"))), "");
    let picture = picture(&rooms);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let text = fs::read_to_string(&file).unwrap();
    let (begin, end) = ("<!-- layers: begin (drawn from the code) -->\n", "<!-- layers: end -->");
    let (before, rest) = text.split_once(begin).expect("ARCHITECTURE.md marks the place of the picture");
    let (now, after) = rest.split_once(end).expect("ARCHITECTURE.md marks the end of the picture");
    if env::var_os("LARDER_WRITE_DOCS").is_some() {
        fs::write(&file, format!("{before}{begin}{picture}{end}{after}")).unwrap();
    } else {
        assert_eq!(
            now, picture,
            "LARDER_WRITE_DOCS=1 cargo test --locked -p larder --test layers draws the picture again"
        );
    }
}

/// Each stop of the walk names a file and a function in it; there are twelve at most.
#[test]
fn the_walk_in_the_architecture_names_functions_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, walk) = text.split_once("### The walk").expect("ARCHITECTURE.md has a walk");
    let walk = walk.split("\n## ").next().unwrap_or_default();
    let stops: Vec<_> = walk.lines().filter(|line| line.contains(". `")).collect();
    assert!((8..=12).contains(&stops.len()), "{stops:?}");
    for stop in stops {
        let mut names = stop.split('`').skip(1).step_by(2);
        let (file, function) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{stop}: {error}"));
        let (source, _) = parse(file, &text, &Module::new());
        let name = function.rsplit("::").next().unwrap_or_default();
        assert!(source.functions.iter().any(|(known, _)| known == name), "`{file}` has no function `{name}`");
    }
}

/// A flow chart in the language of Mermaid. An arrow goes from a room to a room that it imports; arrows that follow from
/// others are left out.
fn picture(rooms: &Graph) -> String {
    let rooms: Graph = rooms
        .iter()
        .filter(|(room, _)| ROOMS.iter().any(|known| known.name == room.as_str()))
        .map(|(room, targets)| (room.clone(), targets.clone()))
        .collect();
    let mut text = String::from("```mermaid\nflowchart TD\n");
    for room in ROOMS.iter().rev().filter(|room| rooms.contains_key(room.name)) {
        text.push_str(&format!("  {0}[\"<b>{0}/</b><br/>{1}\"]\n", room.name, room.job));
    }
    for (room, targets) in reduce(&rooms) {
        for target in targets {
            text.push_str(&format!("  {room} --> {target}\n"));
        }
    }
    text + "```\n"
}

/// A crate with these files.
fn sources(files: &[(&str, &str)]) -> BTreeMap<Module, Source> {
    let module = |file: &str| -> Module {
        let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
        if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
    };
    files.iter().map(|(file, text)| (module(file), parse(file, text, &module(file)).0)).collect()
}

/// The rules bite: each kind of breach is found and named.
#[test]
fn a_breach_is_found_and_named() {
    let breach = |file: &str, text: &str| {
        let modules = sources(&[
            (file, text),
            ("bucket/mod.rs", "mod interface; pub use interface::Bucket;"),
            ("bucket/interface.rs", "pub trait Bucket {}"),
            ("store/mod.rs", "pub mod daemon;"),
            ("store/daemon.rs", "pub struct Daemon;"),
        ]);
        violations(&modules, &imports(&modules)).join("\n")
    };
    for (file, text, expected) in [
        ("format/narinfo.rs", "use std::fs;", "`format/narinfo.rs` imports `std::fs`"),
        (
            "format/narinfo.rs",
            "fn f() { tokio::spawn(async {}); }",
            "`format/narinfo.rs` imports `tokio::spawn`",
        ),
        (
            "format/narinfo.rs",
            "use crate::bucket::Bucket;",
            "`format/narinfo.rs` imports `bucket/interface.rs`",
        ),
        (
            "bucket/s3.rs",
            "use nix_derivation::StorePath;",
            "`bucket/s3.rs` imports `nix_derivation::StorePath`",
        ),
        (
            "store/nar.rs",
            "use crate::bucket::{self, Bucket};",
            "`store/nar.rs` imports `bucket/interface.rs`",
        ),
        ("push/decide/plan.rs", "use crate::store::daemon::Daemon;", "imports `store/daemon.rs`"),
        ("push/publish/order.rs", "use std::net::TcpStream;", "imports `std::net::TcpStream`"),
        ("nowhere/new.rs", "", "`nowhere/` is a room without rules"),
    ] {
        let found = breach(file, text);
        assert!(found.contains(expected), "{file}: {text}: {found}");
    }
    assert_eq!(breach("push/pusher.rs", "use crate::bucket::Bucket; use crate::store::daemon::Daemon;"), "");
    assert_eq!(breach("format/x.rs", "#[cfg(test)] mod tests { use std::fs; }"), "");
}

#[test]
fn printing_outside_of_that_file_is_found() {
    for text in ["fn f() { println!(\"x\") }", "fn f() { let x = vec![dbg!(1)]; }", "use std::io::stderr;"] {
        let files = ["push/run.rs", "cli/push.rs", "cli/output/terminal.rs"].map(|file| (file, text));
        let modules = sources(&files);
        let mut found: Vec<_> = modules.values().flat_map(rules::printing).collect();
        found.sort();
        assert_eq!(found.len(), 2, "{text}: {found:?}");
        assert!(found[0].contains("cli/push.rs") && found[1].contains("push/run.rs"), "{found:?}");
    }
}

#[test]
fn circles_are_found_between_files_and_between_folders() {
    let files = imports(&sources(&[("a/x.rs", "use super::y::Y;"), ("a/y.rs", "use crate::a::x::X;")]));
    assert_eq!(circles(&files)[0], "a/x.rs imports a/y.rs imports a/x.rs");
    let folders = imports(&sources(&[
        ("a/x.rs", "use crate::b::y::Y;"),
        ("a/z.rs", ""),
        ("b/y.rs", "use crate::a::z::Z;"),
    ]));
    assert_eq!(circles(&folders), ["in ``: a imports b imports a"]);
    assert!(!is_index("a/x.rs") && is_index("a/mod.rs"));
}
