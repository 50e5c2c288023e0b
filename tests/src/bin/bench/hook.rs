//! Measures the hook in builds and without Nix, and compares it with a C program that does the least work of a hook.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::cache;
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{NixHome, NixVersion, samples};
use larder_tests::servers::Kind;

use crate::context::Context;
use crate::cost::{Cost, Running, interleave};
use crate::hook_runs::{
    RUNS, WARM_UP, capture_environment, ensure_queued, hook_command, interleaved_times, script,
};
use crate::row::Target::AtMost;
use crate::row::{Row, Side};
use crate::testbed::Testbed;
use crate::yardstick::Yardstick;

/// Measures 100 builds with each hook, with the newest and with the oldest Nix.
pub(crate) fn run_builds(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for version in [NixVersion::V2_34, NixVersion::V2_8] {
        rows.extend(compare_builds(context, version)?);
    }
    Ok(rows)
}

fn compare_builds(context: &Context, version: NixVersion) -> Result<Vec<Row>> {
    let yardstick = Yardstick::compile()?;
    let mut nix = NixHome::new(version)?;
    let larder = LarderHome::new(&nix)?;
    larder.run(&["queue", "create"])?;
    nix.set_env("LARDER_CONFIG", &larder.config_file().display().to_string());
    nix.set_env("YARDSTICK", &yardstick.records().display().to_string());
    let nix_copy =
        script(nix.dir(), &format!("exec nix copy --to file://{}/cache $OUT_PATHS", nix.dir().display()))?;
    let hooks = [
        ("larder-hook", binary("larder-hook")?, None),
        ("the least, in C", yardstick.program(), Some(AtMost(1.15))),
        ("/bin/true", "/bin/true".into(), Some(AtMost(1.4))),
        ("no hook", PathBuf::new(), None),
        ("nix copy to a directory", nix_copy, None),
    ];
    // Nix 2.8.0 does not tell the hook the outputs, so `nix copy` has nothing to copy.
    let programs = if version == NixVersion::V2_8 { 4 } else { 5 };
    let costs = interleave(context.rounds(3), programs, |round, which| {
        match hooks[which].1.as_os_str().is_empty() {
            true => nix.unset_conf("post-build-hook")?,
            false => nix.set_conf("post-build-hook", &hooks[which].1.display().to_string())?,
        }
        let expression = samples::tiny(&format!("{round} {which}"), 100);
        let begun = Instant::now();
        nix.build(&expression)?;
        Ok(Cost::wall(begun.elapsed().as_secs_f64()))
    })?;
    // The round that does not count also queues jobs.
    ensure_queued(&larder.state_dir(), 100 * (context.rounds(3) + 1))?;
    let case = format!("100 builds, Nix {}", version.full().unwrap_or_else(|| version.to_string()));
    let mut sides =
        hooks.iter().zip(costs).map(|((name, _, target), costs)| (Side::new(*name, costs), *target));
    let (ours, _) = sides.next().context("larder-hook")?;
    let rows = sides.map(|(theirs, target)| {
        let row = Row::new(format!("{case}, {}", theirs.name), ours.clone());
        let time = ours.median_wall() / theirs.median_wall();
        // The difference for one of 100 builds, in milliseconds.
        let added = (ours.median_wall() - theirs.median_wall()) * 1e3 / 100.0;
        row.against(theirs).figure("time", time, "x", target).figure("more for each build", added, "ms", None)
    });
    Ok(rows.collect())
}

/// Measures the hook without Nix, on an idle machine and during a push.
pub(crate) fn run_alone(context: &Context) -> Result<Vec<Row>> {
    let mut nix = NixHome::new(NixVersion::V2_34)?;
    let environment = capture_environment(&mut nix, &samples::single("alone"))?;
    let larder = LarderHome::new(&nix)?;
    larder.run(&["queue", "create"])?;
    let yardstick = Yardstick::compile()?;
    let ours = hook_command(&environment, &larder)?;
    let theirs = yardstick.command(&[]);
    let mut pair = [ours, theirs];
    let idle = interleaved_times(&mut pair, RUNS, || true)?;
    let busy = during_a_push(context, &mut pair)?;
    ensure_queued(&larder.state_dir(), 2 * (RUNS))?;
    Ok(vec![
        row_of("one hook, idle machine", idle, "the least, in C", 1.5),
        row_of("one hook, beside a push", busy, "the least, in C", 1.5),
    ])
}

fn during_a_push(context: &Context, pair: &mut [Command; 2]) -> Result<[Vec<f64>; 2]> {
    let store = context.store(NixVersion::V2_34)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    let mut times = [Vec::new(), Vec::new()];
    while times[0].len() < RUNS {
        let bucket = testbed.bucket("larder")?;
        let larder = testbed.larder(&bucket)?;
        let push = Running::start(larder.command(&["push"])?.args(&store.large))?;
        std::thread::scope(|scope| -> Result<()> {
            let push = scope.spawn(|| push.finish());
            // After this time, the push compresses and sends.
            std::thread::sleep(Duration::from_millis(500));
            let more = interleaved_times(pair, RUNS - times[0].len(), || !push.is_finished())?;
            for (times, more) in times.iter_mut().zip(more) {
                times.extend(more);
            }
            push.join().ok().context("the thread that measures the push panicked")??;
            Ok(())
        })?;
        testbed.empty(&bucket)?;
    }
    Ok(times)
}

/// Measures the hook for a build with 10 outputs, on a disk and in memory, against the same system calls in C.
pub(crate) fn run_10(_: &Context) -> Result<Vec<Row>> {
    let yardstick = Yardstick::compile()?;
    let mut nix = NixHome::new(NixVersion::V2_34)?;
    let environment = capture_environment(&mut nix, TEN_OUTPUTS)?;
    let outputs = environment.get("OUT_PATHS").map_or(0, |paths| paths.to_string_lossy().split(' ').count());
    ensure!(outputs == 10, "Nix told the hook {outputs} outputs instead of 10");
    let mut rows = Vec::new();
    for (place, dir) in
        [("disk", tempfile::tempdir_in(cache::dir())?), ("tmpfs", tempfile::tempdir_in("/dev/shm")?)]
    {
        let mut larder = LarderHome::new(&nix)?;
        larder.set_string("state-dir", &dir.path().join("ours").display().to_string())?;
        larder.set_string("nix-state-dir", &dir.path().join("nix").display().to_string())?;
        for name in ["ours", "nix/gcroots/auto", "auto", "state/roots", "state/tmp", "state/incoming"] {
            fs::create_dir_all(dir.path().join(name))?;
        }
        larder.run(&["queue", "create"])?;
        let ours = hook_command(&environment, &larder)?;
        let theirs = yardstick.command(&["loop", &dir.path().display().to_string(), "10"]);
        let times = interleaved_times(&mut [ours, theirs], RUNS, || true)?;
        ensure_queued(&dir.path().join("ours"), RUNS)?;
        rows.push(row_of(
            &format!("hook with 10 outputs, {place}"),
            times,
            "the same system calls, in C",
            1.2,
        ));
    }
    Ok(rows)
}

/// A row for the seconds of the runs of both programs. The first runs do not count.
fn row_of(case: &str, times: [Vec<f64>; 2], theirs: &str, target: f64) -> Row {
    let [ours, theirs] = [("larder-hook", 0), (theirs, 1)].map(|(name, index)| {
        Side::new(name, times[index].iter().skip(WARM_UP).map(|time| Cost::wall(*time)).collect())
    });
    let row = Row::new(case, ours.clone()).against(theirs.clone());
    row.figure("time", ours.median_wall() / theirs.median_wall(), "x", Some(AtMost(target)))
        .figure("median", ours.median_wall() * 1e3, "ms", None)
        .figure("median, C", theirs.median_wall() * 1e3, "ms", None)
        .figure("95th percentile", percentile_95(&ours) * 1e3, "ms", None)
        .figure("95th percentile, C", percentile_95(&theirs) * 1e3, "ms", None)
}

/// The 95th percentile of the times, in seconds.
fn percentile_95(side: &Side) -> f64 {
    let mut times: Vec<_> = side.costs.iter().map(|cost| cost.wall).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 95 / 100).copied().unwrap_or(f64::NAN)
}

/// A derivation with 10 outputs.
const TEN_OUTPUTS: &str = r#"derivation {
  name = "ten"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  outputs = builtins.genList (n: if n == 0 then "out" else "out${toString n}") 10;
  args = [ "-ec" "for name in $outputs; do eval path=\\$$name; echo $name > $path; done" ];
}"#;
