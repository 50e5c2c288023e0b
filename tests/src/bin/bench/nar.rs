//! Pushes one huge NAR, for the use of all cores and for memory that does not depend on the size of the NAR.

use std::time::Duration;

use anyhow::Result;
use larder_tests::nix::{NixHome, NixVersion};
use larder_tests::servers::Kind;

use crate::context::Context;
use crate::cost::{interleave, measure};
use crate::generate;
use crate::raw;
use crate::row::Target::{AtLeast, AtMost};
use crate::row::{MEMORY_LIMIT, Row, Side, Spread};
use crate::testbed::{LEVEL, Testbed};

/// Pushes 1 GiB.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    Ok(compare(context, 1, context.rounds(3))?.into())
}

/// Pushes 1, 4 and 8 GiB.
pub(crate) fn run_8(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for gib in [1, 4, 8] {
        rows.extend(compare(context, gib, context.rounds(2))?);
    }
    let highest_peak = |row: &Row| row.ours.peak().map_or(f64::NAN, |Spread { max, .. }| max);
    let growth = highest_peak(&rows[4]) / highest_peak(&rows[0]);
    let last = rows.remove(4).figure("peak, 8 GiB over 1 GiB", growth, "x", Some(AtMost(1.1)));
    rows.insert(4, last);
    Ok(rows)
}

fn compare(context: &Context, gib: u64, rounds: usize) -> Result<[Row; 2]> {
    let store = context.store(NixVersion::V2_34)?;
    let mut nix = NixHome::new(NixVersion::V2_34)?;
    nix.set_timeout(Duration::from_secs(900));
    context.say(&format!("building a path of {gib} GiB"));
    let paths = generate::one_file(&nix, &store, gib << 30)?;
    let testbed = Testbed::new(Kind::MinIo, &nix)?;
    let cores = std::thread::available_parallelism()?.get();
    let mut costs = interleave(rounds, 3, |_, which| match which {
        0 => {
            let bucket = testbed.bucket("larder")?;
            let cost = testbed.push(&bucket, &paths)?;
            testbed.empty(&bucket)?;
            Ok(cost)
        }
        1 => testbed.push_into_memory(&paths),
        _ => measure(&mut raw::compress(LEVEL, cores, testbed.real(&paths))?),
    })?;
    let limit = Side::new(format!("zstd -{LEVEL} -T{cores}, nothing sent"), costs.remove(2));
    let in_memory = Side::new("larder", costs.remove(1));
    let larder = Side::new("larder", costs.remove(0));
    let rows = [("MinIO", larder), ("a directory in memory", in_memory)];
    let row = |(place, larder)| {
        let (ours, theirs) = (busy_cores(&larder), busy_cores(&limit));
        let row = Row::new(format!("one NAR of {gib} GiB, {place}"), larder).against(limit.clone());
        let row = row.speed(Some(AtLeast(0.9))).cpu(None);
        let row = row.figure("cores busy", ours, "", None).figure("cores busy, zstd alone", theirs, "", None);
        row.peak(MEMORY_LIMIT)
    };
    Ok(rows.map(row))
}

/// The average number of busy cores: processor time divided by time.
fn busy_cores(side: &Side) -> f64 {
    match (side.cpu(), side.wall()) {
        (Some(cpu), Some(wall)) => cpu.median / wall.median,
        _ => f64::NAN,
    }
}
