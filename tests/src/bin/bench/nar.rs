//! One huge NAR: all cores at work, and memory that does not depend on its size.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::bigstore::BigStore;
use larder_tests::nix::{NixHome, NixVersion};
use larder_tests::servers::Kind;
use walkdir::WalkDir;

use crate::arena::{Arena, LEVEL};
use crate::context::Context;
use crate::cost::{in_turns, measure};
use crate::raw;
use crate::row::Reach::{AtLeast, AtMost};
use crate::row::{MOST_MEMORY, Row, Side, Spread};

/// 1 GiB.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    Ok(of(context, 1, context.rounds(3))?.into())
}

/// 1, 4 and 8 GiB.
pub(crate) fn run_8(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for gib in [1, 4, 8] {
        rows.extend(of(context, gib, context.rounds(2))?);
    }
    let most = |row: &Row| row.ours.peak().map_or(f64::NAN, |Spread { max, .. }| max);
    let growth = most(&rows[4]) / most(&rows[0]);
    let last = rows.remove(4).figure("peak, 8 GiB over 1 GiB", growth, "x", Some(AtMost(1.1)));
    rows.insert(4, last);
    Ok(rows)
}

fn of(context: &Context, gib: u64, rounds: usize) -> Result<[Row; 2]> {
    let store = context.store(NixVersion::V2_34)?;
    let mut nix = NixHome::new(NixVersion::V2_34)?;
    nix.set_timeout(Duration::from_secs(900));
    context.say(&format!("making a path of {gib} GiB"));
    let paths = build(&nix, &store, gib)?;
    let arena = Arena::new(Kind::MinIo, &nix)?;
    let cores = std::thread::available_parallelism()?.get();
    let mut costs = in_turns(rounds, 3, |_, who| match who {
        0 => {
            let bucket = arena.bucket("larder")?;
            let cost = arena.push(&bucket, &paths)?;
            arena.empty(&bucket)?;
            Ok(cost)
        }
        1 => arena.push_into_memory(&paths),
        _ => measure(&mut raw::compress(LEVEL, cores, arena.real(&paths))?),
    })?;
    let limit = Side::new(format!("zstd -{LEVEL} -T{cores}, nothing sent"), costs.remove(2));
    let alone = Side::new("larder", costs.remove(1));
    let larder = Side::new("larder", costs.remove(0));
    let rows = [("MinIO", larder), ("a directory in memory", alone)];
    let row = |(place, larder)| {
        let (ours, theirs) = (busy(&larder), busy(&limit));
        let row = Row::new(format!("one NAR of {gib} GiB, {place}"), larder).against(limit.clone());
        let row = row.speed(Some(AtLeast(0.9))).cpu(None);
        let row = row.figure("cores busy", ours, "", None).figure("cores busy, zstd alone", theirs, "", None);
        row.peak(MOST_MEMORY)
    };
    Ok(rows.map(row))
}

/// Processor time over time.
fn busy(side: &Side) -> f64 {
    match (side.cpu(), side.wall()) {
        (Some(cpu), Some(wall)) => cpu.median / wall.median,
        _ => f64::NAN,
    }
}

/// One file of so many GiB: the files of the realistic store, over and over. Far less than one turn fits into what a
/// compressor looks back at, so that it finds no turn in the one before.
fn build(nix: &NixHome, store: &BigStore, gib: u64) -> Result<Vec<String>> {
    let mut list = tempfile::NamedTempFile::new_in(nix.dir())?;
    for path in &store.large {
        for entry in WalkDir::new(store.nix.real(path)).sort_by_file_name() {
            let entry = entry.context("listing the realistic store")?;
            if entry.file_type().is_file() {
                list.write_all(entry.path().as_os_str().as_bytes())?;
                list.write_all(b"\0")?;
            }
        }
    }
    let (list, bytes) = (list.path().display(), gib << 30);
    nix.build(&format!(
        r#"derivation {{
  name = "huge"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-c" "while xargs -0 cat < {list} 2> /dev/null; do :; done | head -c {bytes} > $out" ];
}}"#
    ))
}
