//! larder against an earlier build of itself, so that a change which makes it slower is seen before it lands.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use larder_tests::nix::{NixHome, NixVersion, samples};
use larder_tests::servers::Kind;

use crate::arena::Arena;
use crate::context::Context;
use crate::cost::{Cost, in_turns, measure};
use crate::hook::Pair;
use crate::planning::Planning;
use crate::row::Reach::AtMost;
use crate::row::{MOST_MEMORY, Row, Side};

/// The time of this build over that of the earlier one, as the median of all pairs.
const REACH: f64 = 1.05;

/// The directory with the binaries of the earlier build.
fn earlier(name: &str) -> Result<PathBuf> {
    let dir = std::env::var_os("LARDER_BEFORE_DIR").context(
        "`LARDER_BEFORE_DIR` names no directory with an earlier build's `larder` and `larder-hook`",
    )?;
    let binary = Path::new(&dir).join(name);
    ensure!(binary.is_file(), "there is no `{}`", binary.display());
    Ok(binary)
}

/// The large set, 1,000 tiny paths, the hook, and planning.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let (larder, hook) = (earlier("larder")?, earlier("larder-hook")?);
    let mut rows = vec![one_hook(&hook)?];
    let store = context.store(NixVersion::V2_34)?;
    for (case, paths) in [("large", &store.large), ("1,000 tiny", &store.tiny)] {
        context.say(&format!("{case}, against an earlier build"));
        rows.push(push(context, &larder, &store.nix, case, paths)?);
    }
    context.say("planning, against an earlier build");
    let planning = Planning::prepare(context)?;
    let costs = in_turns(context.rounds(5), 2, |_, who| {
        let mut plan = planning.plan(if who == 0 { None } else { Some(&larder) })?;
        measure(&mut plan)
    })?;
    rows.push(compared("planning 100,000 paths", costs)?);
    Ok(rows)
}

fn push(context: &Context, earlier: &Path, nix: &NixHome, case: &str, paths: &[String]) -> Result<Row> {
    let arena = Arena::new(Kind::MinIo, nix)?;
    let costs = in_turns(context.rounds(5), 2, |_, who| {
        let bucket = arena.bucket(["now", "before"][who])?;
        let cost = match who {
            0 => arena.push(&bucket, paths)?,
            _ => arena.push_with(Some(earlier), &bucket, paths)?,
        };
        if paths.len() < 500 {
            arena.empty(&bucket)?;
        }
        Ok(cost)
    })?;
    compared(case, costs)
}

fn one_hook(earlier: &Path) -> Result<Row> {
    let mut nix = NixHome::new(NixVersion::V2_34)?;
    let pair = Pair::of_builds(&mut nix, earlier, &samples::single("before"))?;
    let [ours, theirs] = pair.times()?;
    compared("one hook, idle machine", vec![costs(&ours), costs(&theirs)])
}

fn costs(times: &[f64]) -> Vec<Cost> {
    times.iter().copied().map(Cost::wall).collect()
}

fn compared(case: &str, mut costs: Vec<Vec<Cost>>) -> Result<Row> {
    let (theirs, ours) = (costs.pop().context("no costs")?, costs.pop().context("no costs")?);
    let mut ratios: Vec<_> = ours.iter().zip(&theirs).map(|(now, before)| now.wall / before.wall).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().context("no rounds")?;
    let measured = ours.iter().any(|cost| cost.peak.is_some());
    let row = Row::new(format!("{case}, against an earlier build"), Side::new("larder", ours));
    let row = row.against(Side::new("larder, earlier build", theirs));
    let row = row.figure("time, median of the pairs", median, "x", Some(AtMost(REACH)));
    Ok(if measured { row.cpu(None).peak(MOST_MEMORY) } else { row })
}
