//! The hook: in builds, by itself, and against a C program that does the least that a hook has to do.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::cache;
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{NixHome, NixVersion, samples};
use larder_tests::process::run;
use larder_tests::servers::Kind;
use tempfile::TempDir;

use crate::arena::Arena;
use crate::context::Context;
use crate::cost::{Cost, Running, in_turns};
use crate::row::Reach::AtMost;
use crate::row::{Row, Side};

/// How many hooks are run by themselves, and how many first that are not counted.
const HOOKS: usize = 300;
const FIRST: usize = 20;

/// 100 builds with each hook, on the newest and on the oldest Nix.
pub(crate) fn run_builds(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for version in [NixVersion::V2_34, NixVersion::V2_8] {
        rows.extend(builds(context, version)?);
    }
    Ok(rows)
}

fn builds(context: &Context, version: NixVersion) -> Result<Vec<Row>> {
    let yardstick = Yardstick::compile()?;
    let mut nix = NixHome::new(version)?;
    let larder = LarderHome::new(&nix)?;
    larder.run(&["queue", "create"])?;
    nix.set_env("LARDER_CONFIG", &larder.config_file().display().to_string());
    nix.set_env("YARDSTICK", &yardstick.records().display().to_string());
    let copying =
        script(nix.dir(), &format!("exec nix copy --to file://{}/cache $OUT_PATHS", nix.dir().display()))?;
    let hooks = [
        ("larder-hook", binary("larder-hook")?, None),
        ("the least, in C", yardstick.program(), Some(AtMost(1.15))),
        ("/bin/true", "/bin/true".into(), Some(AtMost(1.4))),
        ("no hook", PathBuf::new(), None),
        ("nix copy to a directory", copying, None),
    ];
    // The hook of Nix 2.8.0 is told no outputs: there is nothing for `nix copy` to copy.
    let contestants = if version == NixVersion::V2_8 { 4 } else { 5 };
    let costs = in_turns(context.rounds(3), contestants, |round, who| {
        match hooks[who].1.as_os_str().is_empty() {
            true => nix.unset_conf("post-build-hook")?,
            false => nix.set_conf("post-build-hook", &hooks[who].1.display().to_string())?,
        }
        let expression = samples::tiny(&format!("{round} {who}"), 100);
        let begun = Instant::now();
        nix.build(&expression)?;
        Ok(Cost::wall(begun.elapsed().as_secs_f64()))
    })?;
    // The warm-up round is one more.
    all_queued(&larder.state_dir(), 100 * (context.rounds(3) + 1))?;
    let case = format!("100 builds, Nix {}", version.full().unwrap_or_else(|| version.to_string()));
    let mut sides =
        hooks.iter().zip(costs).map(|((name, _, reach), costs)| (Side::new(*name, costs), *reach));
    let (ours, _) = sides.next().context("larder-hook")?;
    let rows = sides.map(|(theirs, reach)| {
        let row = Row::new(format!("{case}, {}", theirs.name), ours.clone());
        let time = ratio(&ours, &theirs);
        let added = (median(&ours) - median(&theirs)) * 10.0;
        row.against(theirs).figure("time", time, "x", reach).figure("more for each build", added, "ms", None)
    });
    Ok(rows.collect())
}

/// The hook by itself, on an idle machine and beside a push.
pub(crate) fn run_alone(context: &Context) -> Result<Vec<Row>> {
    let mut nix = NixHome::new(NixVersion::V2_34)?;
    let environment = captured(&mut nix, &samples::single("alone"))?;
    let larder = LarderHome::new(&nix)?;
    larder.run(&["queue", "create"])?;
    let yardstick = Yardstick::compile()?;
    let ours = hook(&environment, &larder)?;
    let theirs = yardstick.command(&[]);
    let mut pair = [ours, theirs];
    let idle = turns(&mut pair, FIRST + HOOKS, || true)?;
    let busy = beside_a_push(context, &mut pair)?;
    all_queued(&larder.state_dir(), 2 * (FIRST + HOOKS))?;
    Ok(vec![
        compared("one hook, idle machine", idle, "the least, in C", 1.5),
        compared("one hook, beside a push", busy, "the least, in C", 1.5),
    ])
}

fn beside_a_push(context: &Context, pair: &mut [Command; 2]) -> Result<[Vec<f64>; 2]> {
    let store = context.store(NixVersion::V2_34)?;
    let arena = Arena::new(Kind::MinIo, &store.nix)?;
    let mut times = [Vec::new(), Vec::new()];
    while times[0].len() < FIRST + HOOKS {
        let bucket = arena.bucket("larder")?;
        let larder = arena.larder(&bucket)?;
        let push = Running::start(larder.command(&["push"])?.args(&store.large))?;
        std::thread::scope(|scope| -> Result<()> {
            let push = scope.spawn(|| push.finish());
            // Until it compresses and sends.
            std::thread::sleep(Duration::from_millis(500));
            let more = turns(pair, FIRST + HOOKS - times[0].len(), || !push.is_finished())?;
            for (times, more) in times.iter_mut().zip(more) {
                times.extend(more);
            }
            push.join().ok().context("the push panicked")??;
            Ok(())
        })?;
        arena.empty(&bucket)?;
    }
    Ok(times)
}

/// A build with 10 outputs, on a disk and in memory, against the bare system calls.
pub(crate) fn run_10(_: &Context) -> Result<Vec<Row>> {
    let yardstick = Yardstick::compile()?;
    let mut nix = NixHome::new(NixVersion::V2_34)?;
    let environment = captured(&mut nix, TEN)?;
    let ten = environment.get("OUT_PATHS").map_or(0, |paths| paths.to_string_lossy().split(' ').count());
    ensure!(ten == 10, "the hook was told {ten} outputs");
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
        let ours = hook(&environment, &larder)?;
        let theirs = yardstick.command(&["loop", &dir.path().display().to_string(), "10"]);
        let times = turns(&mut [ours, theirs], FIRST + HOOKS, || true)?;
        all_queued(&dir.path().join("ours"), FIRST + HOOKS)?;
        rows.push(compared(
            &format!("hook with 10 outputs, {place}"),
            times,
            "the same system calls, in C",
            1.2,
        ));
    }
    Ok(rows)
}

/// The hooks of two builds, each with a queue of its own.
pub(crate) struct Pair {
    commands: [Command; 2],
    queues: [LarderHome; 2],
}

impl Pair {
    /// This build's hook and the hook `earlier`, each with the environment after a build of `expression`.
    pub(crate) fn of_builds(nix: &mut NixHome, earlier: &Path, expression: &str) -> Result<Self> {
        let environment = captured(nix, expression)?;
        let queues = [LarderHome::new(nix)?, LarderHome::new(nix)?];
        queues.iter().try_for_each(|queue| queue.run(&["queue", "create"]).map(drop))?;
        let programs = [binary("larder-hook")?, earlier.to_owned()];
        let commands = [0, 1].map(|who| hook_of(&programs[who], &environment, &queues[who]));
        Ok(Self { commands, queues })
    }

    /// The seconds of each run of both hooks, which take turns.
    pub(crate) fn times(mut self) -> Result<[Vec<f64>; 2]> {
        let times = turns(&mut self.commands, FIRST + HOOKS, || true)?;
        self.queues.iter().try_for_each(|queue| all_queued(&queue.state_dir(), FIRST + HOOKS))?;
        Ok(times.map(|times| times[FIRST..].to_vec()))
    }
}

/// Seconds of so many runs of each, in turns, for as long as `go_on` says.
fn turns(pair: &mut [Command; 2], count: usize, mut go_on: impl FnMut() -> bool) -> Result<[Vec<f64>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..count {
        if !go_on() {
            break;
        }
        for (command, times) in pair.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            let status = command.status()?;
            times.push(begun.elapsed().as_secs_f64());
            ensure!(status.success(), "{:?}: {status}", command.get_program());
        }
    }
    Ok(times)
}

/// The hook succeeds whatever happens: that it was fast says nothing unless the jobs are there.
fn all_queued(state: &Path, count: usize) -> Result<()> {
    let jobs = fs::read_dir(state.join("incoming"))?.count();
    ensure!(jobs == count, "{jobs} jobs of {count} were queued");
    Ok(())
}

/// A row of seconds that each took; the first runs of each are not counted.
fn compared(case: &str, times: [Vec<f64>; 2], theirs: &str, reach: f64) -> Row {
    let [ours, theirs] = [("larder-hook", 0), (theirs, 1)].map(|(name, at)| {
        Side::new(name, times[at].iter().skip(FIRST).map(|time| Cost::wall(*time)).collect())
    });
    let row = Row::new(case, ours.clone()).against(theirs.clone());
    row.figure("time", ratio(&ours, &theirs), "x", Some(AtMost(reach)))
        .figure("median", median(&ours) * 1e3, "ms", None)
        .figure("median, C", median(&theirs) * 1e3, "ms", None)
        .figure("95th percentile", late(&ours) * 1e3, "ms", None)
        .figure("95th percentile, C", late(&theirs) * 1e3, "ms", None)
}

fn median(side: &Side) -> f64 {
    side.wall().map_or(f64::NAN, |wall| wall.median)
}

fn ratio(ours: &Side, theirs: &Side) -> f64 {
    median(ours) / median(theirs)
}

/// What 95 of 100 runs do not exceed.
fn late(side: &Side) -> f64 {
    let mut times: Vec<_> = side.costs.iter().map(|cost| cost.wall).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 95 / 100).copied().unwrap_or(f64::NAN)
}

type Variables = BTreeMap<String, OsString>;

/// The environment that Nix gives the hook after a build of `expression`.
fn captured(nix: &mut NixHome, expression: &str) -> Result<Variables> {
    let file = nix.dir().join("environment");
    let hook = script(nix.dir(), &format!("exec cat /proc/self/environ > {}", file.display()))?;
    nix.set_conf("post-build-hook", &hook.display().to_string())?;
    nix.build(expression)?;
    let bytes = fs::read(file).context("the hook did not run")?;
    let variables = bytes.split(|byte| *byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        let name = String::from_utf8(variable[..at].to_vec()).ok()?;
        Some((name, OsString::from_vec(variable[at + 1..].to_vec())))
    });
    Ok(variables.collect())
}

/// `larder-hook` as Nix starts it, with a configuration of ours.
fn hook(environment: &Variables, larder: &LarderHome) -> Result<Command> {
    Ok(hook_of(&binary("larder-hook")?, environment, larder))
}

fn hook_of(program: &Path, environment: &Variables, larder: &LarderHome) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(environment).env("LARDER_CONFIG", larder.config_file()).stdin(Stdio::null());
    command
}

fn script(dir: &Path, line: &str) -> Result<PathBuf> {
    let file = dir.join("hook.sh");
    fs::write(&file, format!("#!/bin/sh\n{line}\n"))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

/// `tests/yardsticks/hook.c`, compiled.
struct Yardstick {
    dir: TempDir,
}

impl Yardstick {
    fn compile() -> Result<Self> {
        // Beside larder's queue: what a sync costs differs between directories.
        let yardstick = Self { dir: tempfile::tempdir()? };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("yardsticks/hook.c");
        let mut command = Command::new("cc");
        command.args(["-O2", "-o"]).arg(yardstick.program()).arg(source);
        run(&mut command, Duration::from_secs(60))?.ok()?;
        fs::create_dir(yardstick.records())?;
        Ok(yardstick)
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("hook")
    }

    /// Where it leaves its records.
    fn records(&self) -> PathBuf {
        self.dir.path().join("records")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(words).env_clear().env("YARDSTICK", self.records()).stdin(Stdio::null());
        command
    }
}

const TEN: &str = r#"derivation {
  name = "ten"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  outputs = builtins.genList (n: if n == 0 then "out" else "out${toString n}") 10;
  args = [ "-ec" "for name in $outputs; do eval path=\\$$name; echo $name > $path; done" ];
}"#;
