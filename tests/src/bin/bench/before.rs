//! Compares larder with an earlier build, to detect a change that makes larder slower.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use larder_tests::nix::{NixHome, NixVersion, samples};
use larder_tests::servers::Kind;

use crate::context::Context;
use crate::cost::{Cost, interleave, measure};
use crate::hook_runs::Pair;
use crate::planning::Planning;
use crate::row::Target::AtMost;
use crate::row::{MEMORY_LIMIT, Row, Side, median};
use crate::testbed::Testbed;

/// The highest permitted ratio of the time of this build to the time of the earlier build: the median of all pairs.
const MAX_RATIO: f64 = 1.05;

/// A program of the earlier build.
fn earlier_binary(name: &str) -> Result<PathBuf> {
    let dir = std::env::var_os("LARDER_BEFORE_DIR").context(
        "`LARDER_BEFORE_DIR` is not set: set it to a directory with `larder` and `larder-hook` of an earlier build",
    )?;
    let binary = Path::new(&dir).join(name);
    ensure!(
        binary.is_file(),
        "`{}` does not exist: copy the program of the earlier build there",
        binary.display()
    );
    Ok(binary)
}

/// Measures the large set, 1,000 tiny paths, the hook, and planning.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let (larder, hook) = (earlier_binary("larder")?, earlier_binary("larder-hook")?);
    let mut rows = vec![compare_hooks(&hook)?];
    let store = context.store(NixVersion::V2_34)?;
    for (case, paths) in [("large", &store.large), ("1,000 tiny", &store.tiny)] {
        context.say(&format!("{case}, against an earlier build"));
        rows.push(compare_pushes(context, &larder, &store.nix, case, paths)?);
    }
    context.say("planning, against an earlier build");
    let planning = Planning::prepare(context)?;
    let costs = interleave(context.rounds(5), 2, |_, which| {
        let mut plan = planning.plan(if which == 0 { None } else { Some(&larder) })?;
        measure(&mut plan)
    })?;
    rows.push(row_of("planning 100,000 paths", costs)?);
    Ok(rows)
}

fn compare_pushes(
    context: &Context,
    earlier: &Path,
    nix: &NixHome,
    case: &str,
    paths: &[String],
) -> Result<Row> {
    let testbed = Testbed::new(Kind::MinIo, nix)?;
    let costs = interleave(context.rounds(5), 2, |_, which| {
        let bucket = testbed.bucket(["now", "before"][which])?;
        let cost = match which {
            0 => testbed.push(&bucket, paths)?,
            _ => testbed.push_with(Some(earlier), &bucket, paths)?,
        };
        if paths.len() < 500 {
            testbed.empty(&bucket)?;
        }
        Ok(cost)
    })?;
    row_of(case, costs)
}

fn compare_hooks(earlier: &Path) -> Result<Row> {
    let mut nix = NixHome::new(NixVersion::V2_34)?;
    let pair = Pair::of_builds(&mut nix, earlier, &samples::single("before"))?;
    let [ours, theirs] = pair.times()?;
    row_of(
        "one hook, idle machine",
        [ours, theirs].map(|times| times.into_iter().map(Cost::wall).collect()).into(),
    )
}

/// A row for the costs of this build and of the earlier build.
fn row_of(case: &str, mut costs: Vec<Vec<Cost>>) -> Result<Row> {
    let (theirs, ours) = (costs.pop().context("no costs")?, costs.pop().context("no costs")?);
    let ratio = median(ours.iter().zip(&theirs).map(|(now, before)| now.wall / before.wall).collect());
    let has_memory = ours.iter().any(|cost| cost.peak.is_some());
    let row = Row::new(format!("{case}, against an earlier build"), Side::new("larder", ours));
    let row = row.against(Side::new("larder, earlier build", theirs));
    let row = row.figure("time, median of the pairs", ratio, "x", Some(AtMost(MAX_RATIO)));
    Ok(if has_memory { row.cpu(None).peak(MEMORY_LIMIT) } else { row })
}
