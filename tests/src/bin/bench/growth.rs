//! Measures how the cost grows with bytes, with paths and with the round-trip time. `tests/plots` draws the rows of this
//! case from the JSON of the table. It reads the name of each row up to the first colon, and the figure `at`.

use std::time::Duration;

use anyhow::Result;
use larder_tests::nix::{NixHome, NixVersion};
use larder_tests::servers::Kind;
use larder_tests::wire::Wire;

use crate::context::Context;
use crate::cost::Cost;
use crate::generate;
use crate::network;
use crate::row::{MEMORY_LIMIT, Row, Side};
use crate::testbed::Testbed;

/// `nix copy` is not measured at a longer round-trip time after a run that took more than this number of seconds.
const COPY_TIME_LIMIT: f64 = 30.0;

/// Measures the growth with bytes, with paths and with the round-trip time.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let mut rows = grow_bytes(context)?;
    rows.extend(grow_paths(context)?);
    rows.extend(grow_latency(context)?);
    Ok(rows)
}

/// Pushes one NAR of each size.
fn grow_bytes(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    [64_u64, 256, 1024, 4096]
        .into_iter()
        .map(|mib| {
            context.say(&format!("growth: one NAR of {mib} MiB"));
            let mut nix = NixHome::new(NixVersion::V2_34)?;
            nix.set_timeout(Duration::from_secs(600));
            let built = generate::one_file(&nix, &store, mib << 20)?;
            let testbed = Testbed::new(Kind::MinIo, &nix)?;
            let costs = repeat(context, || {
                let bucket = testbed.bucket("larder")?;
                let cost = testbed.push(&bucket, &built)?;
                testbed.empty(&bucket)?;
                Ok(cost)
            })?;
            let row =
                Row::new(format!("growth with bytes: one NAR of {mib} MiB"), Side::new("larder", costs));
            Ok(row.figure("at", (mib << 20) as f64, "bytes", None).peak(MEMORY_LIMIT))
        })
        .collect()
}

/// Pushes each number of tiny paths into an empty bucket, and then again into the same bucket.
fn grow_paths(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in [100_u32, 1000, 5000] {
        context.say(&format!("growth: {count} paths"));
        let nix = NixHome::new(NixVersion::V2_34)?;
        let paths = generate::tiny_files(&nix, count)?;
        let testbed = Testbed::new(Kind::MinIo, &nix)?;
        let mut bucket = String::new();
        let new = repeat(context, || {
            bucket = testbed.bucket("larder")?;
            testbed.push(&bucket, &paths)
        })?;
        let present = repeat(context, || Ok(testbed.push(&bucket, &paths)?.nothing_sent()))?;
        for (kind, costs) in [("new", new), ("present", present)] {
            let row = Row::new(format!("growth with {kind} paths: {count} tiny"), Side::new("larder", costs));
            rows.push(row.figure("at", f64::from(count), "paths", None).peak(MEMORY_LIMIT));
        }
    }
    Ok(rows)
}

/// Pushes 1,000 tiny paths with each number of milliseconds added to each round trip.
fn grow_latency(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    let (mut rows, mut copy_time) = (Vec::new(), 0.0);
    for ms in [0_u32, 10, 25, 50, 100] {
        context.say(&format!("growth: {ms} ms"));
        let wire = Wire::start(&testbed.server.endpoint(), None, Duration::from_millis(ms.into()))?;
        let costs =
            repeat(context, || network::push(&testbed, &wire, &testbed.bucket("larder")?, &store.tiny))?;
        let row = Row::new(format!("growth with latency: {ms} ms"), Side::new("larder", costs));
        let row = row.figure("at", f64::from(ms), "ms", None);
        rows.push(if copy_time < COPY_TIME_LIMIT {
            let cost = network::copy(&testbed, &wire, &testbed.bucket("nix")?, &store.tiny)?;
            copy_time = cost.wall;
            row.against(Side::new(testbed.nix_name("zstd"), vec![cost])).speed(None)
        } else {
            row
        });
    }
    Ok(rows)
}

/// Runs a measurement as often as the case has rounds.
fn repeat(context: &Context, mut run: impl FnMut() -> Result<Cost>) -> Result<Vec<Cost>> {
    (0..context.rounds(2)).map(|_| run()).collect()
}
