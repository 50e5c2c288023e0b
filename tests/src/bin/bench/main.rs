//! Compares larder with its peers and with what the machine can do at most, and prints one table of measured figures.
//!
//! A benchmark, not a timed test: it judges by printing, never by its exit code; only a run whose commands fail is an
//! error. Run by `tests/bench`, which tells how.
//!
//! | file | what |
//! |---|---|
//! | `main.rs`, `arguments.rs`, `context.rs` | the table of cases; the command line; what a case is given |
//! | `cost.rs`, `row.rs`, `table.rs`, `machine.rs` | measuring a child; what is compared; text and JSON; where it ran |
//! | `arena.rs` | a server, a store, and the contestants in it: larder, `nix copy`, the raw client |
//! | `raw.rs`, `connection.rs` | the yardsticks: a bare S3 client, a bare compressor |
//! | `large.rs`, `tiny.rs`, `present.rs`, `planning.rs`, `nar.rs`, `agents.rs` | the cases |
//! | `before.rs` | against an earlier build of larder |
//! | `wire.rs`, `hook.rs`, `growth.rs` | more cases: a slow and a far network, the hook, how cost grows |

mod agents;
mod arena;
mod arguments;
mod before;
mod connection;
mod context;
mod cost;
mod growth;
mod hook;
mod large;
mod machine;
mod nar;
mod planning;
mod present;
mod raw;
mod row;
mod table;
mod tiny;
mod wire;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use arguments::Arguments;
use context::Context;
use machine::Machine;
use row::Row;
use table::Table;

/// A case: one comparison, or several that share their setting.
struct Case {
    /// What it is called on the command line.
    name: &'static str,
    /// What it compares, in one line.
    about: &'static str,
    /// Whether a run without named cases has it: all of those together take some 15 minutes on two cores.
    usual: bool,
    /// Measures.
    run: fn(&Context) -> Result<Vec<Row>>,
}

const fn usual(name: &'static str, run: fn(&Context) -> Result<Vec<Row>>, about: &'static str) -> Case {
    Case { name, about, usual: true, run }
}

const fn by_name(name: &'static str, run: fn(&Context) -> Result<Vec<Row>>, about: &'static str) -> Case {
    Case { name, about, usual: false, run }
}

/// All cases, in the order in which they run.
const CASES: &[Case] = &[
    usual("large", large::run, "73 packages, 1.7 GB of NAR, against `nix copy`"),
    usual("large-2.8", large::run_old, "the same against the `nix copy` of Nix 2.8.0"),
    by_name("large-limits", large::run_limits, "the same against the raw client and a compressor alone"),
    usual("xz", large::run_xz, "at most 120 MB against `nix copy` with its default, xz"),
    usual("tiny", tiny::run, "1,000 tiny new paths on MinIO against `nix copy` and the raw client"),
    usual("tiny-seaweedfs", tiny::run_seaweedfs, "the same on SeaweedFS"),
    usual("present", present::run, "1,000 paths that are all there, nothing remembered, against `nix copy`"),
    by_name("present-10000", present::run_many, "the same with 10,000"),
    by_name("planning", planning::run, "planning a backfill of 100,000 paths, 90,000 of them there"),
    usual("nar", nar::run, "one NAR of 1 GiB against a compressor alone over the same bytes"),
    by_name("nar-8", nar::run_8, "the same with 1, 4 and 8 GiB: memory must not grow"),
    by_name("agents", agents::run, "1, 2 and 4 agents that push overlapping closures into one bucket"),
    usual("latency", wire::run_latency, "1,000 tiny with 50 ms added to each round trip"),
    by_name("slow-wire", wire::run_slow, "the large set through 200 Mbit/s and 10 ms against `nix copy`"),
    usual("builds", hook::run_builds, "100 builds with each hook"),
    usual("hook", hook::run_alone, "the hook by itself, idle and beside a push, against the least in C"),
    usual("hook-10", hook::run_10, "the hook with 10 outputs against the bare system calls"),
    by_name(
        "before",
        before::run,
        "large, tiny, the hook and planning against the build in `$LARDER_BEFORE_DIR`",
    ),
    by_name("growth", growth::run, "how time and memory grow with bytes, paths and latency"),
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
        CASES.iter().for_each(|case| println!("{:<16} {}{}", case.name, case.about, mark(case)));
        return Ok(());
    }
    let context = Context::new(arguments.rounds)?;
    let mut table = Table::new(Machine::look()?);
    print!("{}", table.head());
    let wanted = |case: &&Case| match arguments.cases.is_empty() {
        true => case.usual,
        false => arguments.cases.iter().any(|name| name == case.name),
    };
    let mut failed = Vec::new();
    for case in CASES.iter().filter(wanted) {
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
        // After each case, so that a run that is broken off has left what it measured.
        if let Some(file) = &arguments.json {
            table.write_json(file)?;
        }
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

fn mark(case: &Case) -> &'static str {
    if case.usual { "" } else { " (by name only)" }
}
