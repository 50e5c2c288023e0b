//! A simulated network between larder and the bucket: a slow network, and a network with a long round-trip time.

use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::nix::NixVersion;
use larder_tests::servers::Kind;
use larder_tests::wire::Wire;

use crate::context::Context;
use crate::cost::{Cost, interleave};
use crate::row::Target::{AtLeast, AtMost};
use crate::row::{MEMORY_LIMIT, Row, Side, median};
use crate::testbed::Testbed;

/// The rate of the slow network, in bits per second.
const RATE: u64 = 200_000_000;

/// Pushes the large set through a network of 200 Mbit/s with a round-trip time of 10 ms.
pub(crate) fn run_slow(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    let wire = Wire::start(&testbed.server.endpoint(), Some(RATE), Duration::from_millis(10))?;
    let mut shares = [Vec::new(), Vec::new()];
    let mut whole = Vec::new();
    let mut costs = interleave(context.rounds(3), 2, |round, which| {
        let bucket = testbed.bucket(["larder", "nix"][which])?;
        let cost = match which {
            0 => push(&testbed, &wire, &bucket, &store.large)?,
            _ => copy(&testbed, &wire, &bucket, &store.large)?,
        };
        testbed.empty(&bucket)?;
        let nars = wire.traffic().nars.context("the network has transmitted no NAR")?;
        if round > 0 {
            shares[which].push(nars.share(RATE));
            if which == 0 {
                whole.push(nars.bytes as f64 * 8.0 / (RATE as f64 * cost.wall));
            }
        }
        Ok(cost)
    })?;
    let theirs = Side::new(testbed.nix_name("zstd"), costs.remove(1));
    let row = Row::new("large, 200 Mbit/s and 10 ms", Side::new("larder", costs.remove(0))).against(theirs);
    let row = row.speed(Some(AtLeast(1.15))).sent(None).cpu(None);
    let row = row.figure("line used, whole push", median(whole), "x", Some(AtLeast(0.95)));
    let [ours, theirs] = shares.map(median);
    let row = row.figure("line used, while NARs go", ours, "x", None);
    Ok(vec![row.figure("the same, nix copy", theirs, "x", None).peak(MEMORY_LIMIT)])
}

/// Pushes 1,000 tiny paths with 50 ms added to each round trip.
pub(crate) fn run_latency(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    let [far, near] =
        [50, 0].map(|ms| Wire::start(&testbed.server.endpoint(), None, Duration::from_millis(ms)));
    let wires = [far?, near?];
    let mut costs = interleave(context.rounds(3), 2, |_, which| {
        push(&testbed, &wires[which], &testbed.bucket("larder")?, &store.tiny)
    })?;
    let near = Side::new("larder, nothing added", costs.remove(1));
    let far = Side::new("larder, 50 ms", costs.remove(0));
    context.say("latency: nix copy, once");
    let theirs = copy(&testbed, &wires[0], &testbed.bucket("nix")?, &store.tiny)?;
    let theirs = Side::new(format!("{}, 50 ms", testbed.nix_name("zstd")), vec![theirs]);
    let longer = far.median_wall() / near.median_wall();
    let case = "1,000 tiny, 50 ms added";
    let against_itself = Row::new(format!("{case}, against itself"), far.clone()).against(near);
    Ok(vec![
        against_itself.figure("time", longer, "x", Some(AtMost(2.0))).cpu(None).peak(MEMORY_LIMIT),
        Row::new(case, far).against(theirs).speed(Some(AtLeast(10.0))).sent(None),
    ])
}

/// Measures `larder push` through a simulated network. larder initialises the bucket without it.
pub(crate) fn push(testbed: &Testbed<'_>, wire: &Wire, bucket: &str, paths: &[String]) -> Result<Cost> {
    wire.reset();
    testbed.push_through(&wire.endpoint(), bucket, paths)
}

/// Measures `nix copy` through a simulated network.
pub(crate) fn copy(testbed: &Testbed<'_>, wire: &Wire, bucket: &str, paths: &[String]) -> Result<Cost> {
    wire.reset();
    testbed.copy_through(&wire.endpoint(), bucket, "zstd", paths)
}
