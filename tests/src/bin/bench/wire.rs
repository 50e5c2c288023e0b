//! A network between larder and the bucket: one that is slower than the machine, and one that is far away.

use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::bigstore::BigStore;
use larder_tests::nix::NixVersion;
use larder_tests::servers::Kind;
use larder_tests::wire::Wire;

use crate::arena::Arena;
use crate::context::Context;
use crate::cost::{Cost, in_turns, measure};
use crate::row::Reach::{AtLeast, AtMost};
use crate::row::{MOST_MEMORY, Row, Side, Spread};

/// Bits per second of the slow wire.
const RATE: u64 = 200_000_000;

/// The large set through 200 Mbit/s and 10 ms.
pub(crate) fn run_slow(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let arena = Arena::new(Kind::MinIo, &store.nix)?;
    let wire = Wire::start(&arena.server.endpoint(), Some(RATE), Duration::from_millis(10))?;
    let mut shares = [Vec::new(), Vec::new()];
    let mut whole = Vec::new();
    let mut costs = in_turns(context.rounds(3), 2, |round, who| {
        let bucket = arena.bucket(["larder", "nix"][who])?;
        let cost = match who {
            0 => push(&arena, &wire, &bucket, &store.large)?,
            _ => copy(&arena, &store, &wire, &bucket, &store.large)?,
        };
        arena.empty(&bucket)?;
        let nars = wire.traffic().nars.context("no NAR went over the wire")?;
        if round > 0 {
            shares[who].push(nars.share(RATE));
            if who == 0 {
                whole.push(nars.bytes as f64 * 8.0 / (RATE as f64 * cost.wall));
            }
        }
        Ok(cost)
    })?;
    let theirs = Side::new(arena.nix_name("zstd"), costs.remove(1));
    let row = Row::new("large, 200 Mbit/s and 10 ms", Side::new("larder", costs.remove(0))).against(theirs);
    let row = row.speed(Some(AtLeast(1.15))).sent(None).cpu(None);
    let row = row.figure("line used, whole push", median(whole), "x", Some(AtLeast(0.95)));
    let [ours, theirs] = shares.map(median);
    let row = row.figure("line used, while NARs go", ours, "x", None);
    Ok(vec![row.figure("the same, nix copy", theirs, "x", None).peak(MOST_MEMORY)])
}

/// 1,000 tiny paths with 50 ms added to each round trip.
pub(crate) fn run_latency(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let arena = Arena::new(Kind::MinIo, &store.nix)?;
    let [far, near] =
        [50, 0].map(|ms| Wire::start(&arena.server.endpoint(), None, Duration::from_millis(ms)));
    let wires = [far?, near?];
    let mut costs = in_turns(context.rounds(3), 2, |_, who| {
        push(&arena, &wires[who], &arena.bucket("larder")?, &store.tiny)
    })?;
    let near = Side::new("larder, nothing added", costs.remove(1));
    let far = Side::new("larder, 50 ms", costs.remove(0));
    context.say("latency: nix copy, once");
    let theirs = copy(&arena, &store, &wires[0], &arena.bucket("nix")?, &store.tiny)?;
    let theirs = Side::new(format!("{}, 50 ms", arena.nix_name("zstd")), vec![theirs]);
    let longer = far.wall().zip(near.wall()).map_or(f64::NAN, |(far, near)| far.median / near.median);
    let case = "1,000 tiny, 50 ms added";
    let against_itself = Row::new(format!("{case}, against itself"), far.clone()).against(near);
    Ok(vec![
        against_itself.figure("time", longer, "x", Some(AtMost(2.0))).cpu(None).peak(MOST_MEMORY),
        Row::new(case, far).against(theirs).speed(Some(AtLeast(10.0))).sent(None),
    ])
}

/// Measures `larder push` over a wire, into a bucket that is made ready without it.
pub(crate) fn push(arena: &Arena<'_>, wire: &Wire, bucket: &str, paths: &[String]) -> Result<Cost> {
    let mut larder = arena.larder(bucket)?;
    larder.use_server_at(&*arena.server, &wire.endpoint(), bucket)?;
    let mut command = larder.command(&["push"])?;
    command.args(paths);
    wire.reset();
    Ok(measure(&mut command)?.sent(sent(arena, bucket)?))
}

/// Measures `nix copy` over a wire.
pub(crate) fn copy(
    arena: &Arena<'_>,
    store: &BigStore,
    wire: &Wire,
    bucket: &str,
    paths: &[String],
) -> Result<Cost> {
    let url = format!("{}/{bucket}?compression=zstd&parallel-compression=true", wire.endpoint());
    let mut command = store.nix.command("nix", &["copy", "--to", &url]);
    command.args(paths);
    wire.reset();
    Ok(measure(&mut command)?.sent(sent(arena, bucket)?))
}

fn sent(arena: &Arena<'_>, bucket: &str) -> Result<u64> {
    Ok(arena.server.client().list(bucket, "nar/")?.iter().map(|(_, size)| size).sum())
}

fn median(values: Vec<f64>) -> f64 {
    Spread::of(values.into_iter().map(Some)).map_or(f64::NAN, |spread| spread.median)
}
