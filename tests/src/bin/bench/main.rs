//! Compares larder with similar programs and with the limits of the machine, and prints a table of figures.
//!
//! The exit code does not depend on the figures; a run fails only if a command fails. `tests/bench` runs this program and
//! describes its arguments.
//!
//! | files | contents |
//! |---|---|
//! | `main.rs`, `arguments.rs`, `context.rs` | the list of cases; the arguments; the context of a case |
//! | `cost.rs`, `row.rs`, `table.rs`, `machine.rs` | the cost of a child; a comparison; text and JSON; the machine |
//! | `testbed.rs`, `generate.rs` | a server, a store, and the compared programs; generated store paths |
//! | `raw.rs`, `raw_upkeep.rs`, `connection.rs` | a raw S3 client, and a compressor alone |
//! | `large.rs`, `tiny.rs`, `present.rs`, `planning.rs`, `nar.rs`, `agents.rs` | the cases |
//! | `keep.rs`, `contents.rs` | the upkeep of a bucket |
//! | `before.rs` | the comparison with an earlier build of larder |
//! | `network.rs`, `growth.rs` | cases with a simulated network; the growth of the cost |
//! | `hook.rs`, `hook_runs.rs`, `yardstick.rs` | the cases of the hook; its runs without Nix; the same work in C |

mod agents;
mod arguments;
mod before;
mod connection;
mod contents;
mod context;
mod cost;
mod generate;
mod growth;
mod hook;
mod hook_runs;
mod keep;
mod large;
mod machine;
mod nar;
mod network;
mod planning;
mod present;
mod raw;
mod raw_upkeep;
mod row;
mod table;
mod testbed;
mod tiny;
mod yardstick;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use arguments::Arguments;
use context::Context;
use machine::Machine;
use row::Row;
use table::Table;

/// A case: one or several comparisons with the same setup.
struct Case {
    /// The name of the case as an argument.
    name: &'static str,
    /// The description of the case, in one line.
    about: &'static str,
    /// Whether the case runs without being named. All usual cases together take about 15 minutes on two cores.
    usual: bool,
    /// Runs the measurements and returns the rows.
    run: fn(&Context) -> Result<Vec<Row>>,
}

const fn usual(name: &'static str, run: fn(&Context) -> Result<Vec<Row>>, about: &'static str) -> Case {
    Case { name, about, usual: true, run }
}

const fn by_name(name: &'static str, run: fn(&Context) -> Result<Vec<Row>>, about: &'static str) -> Case {
    Case { name, about, usual: false, run }
}

/// All cases in the order of a run.
const CASES: &[Case] = &[
    usual("large", large::run, "73 packages, 1.7 GB of NAR, against `nix copy`"),
    usual("large-2.8", large::run_old, "the same against the `nix copy` of Nix 2.8.0"),
    by_name(
        "large-limits",
        large::run_limits,
        "the same against the raw client and against a compressor alone",
    ),
    usual("xz", large::run_xz, "at most 120 MB against `nix copy` with its default, xz"),
    usual("tiny", tiny::run, "1,000 tiny new paths on MinIO against `nix copy` and the raw client"),
    usual("tiny-seaweedfs", tiny::run_seaweedfs, "the same on SeaweedFS"),
    usual(
        "present",
        present::run,
        "1,000 paths that the bucket has, with empty caches of the client, against `nix copy`",
    ),
    by_name("present-10000", present::run_many, "the same with 10,000 paths"),
    by_name("planning", planning::run, "planning a push of 100,000 paths, of which the bucket has 90,000"),
    usual("nar", nar::run, "one NAR of 1 GiB against a compressor alone with the same bytes"),
    by_name("nar-8", nar::run_8, "the same with 1, 4 and 8 GiB; the memory must not grow"),
    by_name("agents", agents::run, "1, 2 and 4 agents that push overlapping closures into one bucket"),
    usual("latency", network::run_latency, "1,000 tiny paths with 50 ms added to each round trip"),
    by_name("slow-wire", network::run_slow, "the large set over 200 Mbit/s with 10 ms against `nix copy`"),
    usual("builds", hook::run_builds, "100 builds with each hook"),
    usual(
        "hook",
        hook::run_alone,
        "the hook without Nix, on an idle machine and during a push, against a C program",
    ),
    usual("hook-10", hook::run_10, "the hook with 10 outputs against the same system calls in C"),
    by_name(
        "before",
        before::run,
        "large, tiny, the hook and planning against the build in `$LARDER_BEFORE_DIR`",
    ),
    by_name(
        "keep-verify",
        keep::run_verify,
        "the verification of a bucket of 100,000 paths, first and again",
    ),
    by_name(
        "keep-contents",
        contents::run,
        "`verify --data` of 1.7 GB against `zstd -d` and a program that hashes",
    ),
    by_name(
        "keep-sign",
        keep::run_sign,
        "new signatures for a bucket of 100,000 paths, against GET and PUT of each",
    ),
    by_name(
        "keep-collect",
        keep::run_collect,
        "the decision of a collection over 100,000 paths, and the deletion of as many objects",
    ),
    by_name(
        "keep-push",
        keep::run_push,
        "a push of 1,000 present paths while a collection runs, against one without",
    ),
    by_name("growth", growth::run, "the growth of time and memory with bytes, paths and latency"),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == raw::COMMAND) {
        return raw::main(&words[1..]);
    }
    let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
    let arguments = Arguments::parse(&words, &names)?;
    if arguments.help {
        eprint!("{}", arguments::USAGE);
        return Ok(());
    }
    if arguments.list {
        CASES.iter().for_each(|case| println!("{:<16} {}{}", case.name, case.about, suffix(case)));
        return Ok(());
    }
    measure(&arguments)
}

/// Runs the selected cases and prints their rows. Fails if a case fails, after the other cases.
fn measure(arguments: &Arguments) -> Result<()> {
    let context = Context::new(arguments.rounds)?;
    let mut table = Table::new(Machine::detect()?);
    print!("{}", table.head());
    let mut failed = Vec::new();
    for case in CASES.iter().filter(|case| is_selected(case, arguments)) {
        context.say(&format!("{}: {}", case.name, case.about));
        let begun = Instant::now();
        let rows = match (case.run)(&context) {
            Ok(rows) => rows,
            Err(error) => {
                context.say(&format!("{}: error: {error:#}", case.name));
                failed.push(case.name);
                continue;
            }
        };
        context.say(&format!("{}: took {:.0} s", case.name, begun.elapsed().as_secs_f64()));
        for row in rows {
            print!("{}", table.add(row));
        }
        // The file is written after each case, so an interrupted run leaves its results.
        if let Some(file) = &arguments.json {
            table.write_json(file)?;
        }
    }
    ensure!(failed.is_empty(), "these cases failed: {}", failed.join(", "));
    Ok(())
}

/// Whether a case runs: a named case, or a usual case if no case is named.
fn is_selected(case: &Case, arguments: &Arguments) -> bool {
    match arguments.cases.is_empty() {
        true => case.usual,
        false => arguments.cases.iter().any(|name| name == case.name),
    }
}

fn suffix(case: &Case) -> &'static str {
    if case.usual { "" } else { " (by name only)" }
}
