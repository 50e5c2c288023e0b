//! Runs the hook directly, without Nix, in the environment that Nix gives it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::NixHome;

/// The number of counted runs of each hook.
const COUNTED: usize = 300;
/// The number of runs of each hook before the counted runs. They warm the caches up.
pub(crate) const WARM_UP: usize = 20;
/// The number of all runs of each hook.
pub(crate) const RUNS: usize = WARM_UP + COUNTED;

/// The hooks of two builds of larder. Each hook has its own queue.
pub(crate) struct Pair {
    commands: [Command; 2],
    queues: [LarderHome; 2],
}

impl Pair {
    /// The hook of this build and the hook `earlier`. Both get the environment that Nix sets after a build of `expression`.
    pub(crate) fn of_builds(nix: &mut NixHome, earlier: &Path, expression: &str) -> Result<Self> {
        let environment = capture_environment(nix, expression)?;
        let queues = [LarderHome::new(nix)?, LarderHome::new(nix)?];
        queues.iter().try_for_each(|queue| queue.run(&["queue", "create"]).map(drop))?;
        let programs = [binary("larder-hook")?, earlier.to_owned()];
        let commands = [0, 1].map(|index| command_of(&programs[index], &environment, &queues[index]));
        Ok(Self { commands, queues })
    }

    /// The seconds of each counted run of both hooks. The runs are interleaved.
    pub(crate) fn times(mut self) -> Result<[Vec<f64>; 2]> {
        let times = interleaved_times(&mut self.commands, RUNS, || true)?;
        self.queues.iter().try_for_each(|queue| ensure_queued(&queue.state_dir(), RUNS))?;
        Ok(times.map(|times| times[WARM_UP..].to_vec()))
    }
}

/// The seconds of `count` runs of each command. The runs are interleaved, and end early when `go_on` returns false.
pub(crate) fn interleaved_times(
    pair: &mut [Command; 2],
    count: usize,
    mut go_on: impl FnMut() -> bool,
) -> Result<[Vec<f64>; 2]> {
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

/// Fails unless the queue has `count` jobs. The hook succeeds even if it queues nothing, so the benchmark checks the jobs.
pub(crate) fn ensure_queued(state: &Path, count: usize) -> Result<()> {
    let jobs = fs::read_dir(state.join("incoming"))?.count();
    ensure!(jobs == count, "the hooks have queued {jobs} of {count} jobs");
    Ok(())
}

/// The variables of an environment.
pub(crate) type Variables = BTreeMap<String, OsString>;

/// The environment that Nix sets for the hook after a build of `expression`.
pub(crate) fn capture_environment(nix: &mut NixHome, expression: &str) -> Result<Variables> {
    let file = nix.dir().join("environment");
    let hook = script(nix.dir(), &format!("exec cat /proc/self/environ > {}", file.display()))?;
    nix.set_conf("post-build-hook", &hook.display().to_string())?;
    nix.build(expression)?;
    let bytes = fs::read(file).context("Nix did not run the hook that records its environment")?;
    let variables = bytes.split(|byte| *byte == 0).filter_map(|variable| {
        let equals = variable.iter().position(|byte| *byte == b'=')?;
        let name = String::from_utf8(variable[..equals].to_vec()).ok()?;
        Some((name, OsString::from_vec(variable[equals + 1..].to_vec())))
    });
    Ok(variables.collect())
}

/// The command that runs `larder-hook` as Nix does, with the configuration of `larder`.
pub(crate) fn hook_command(environment: &Variables, larder: &LarderHome) -> Result<Command> {
    Ok(command_of(&binary("larder-hook")?, environment, larder))
}

fn command_of(program: &Path, environment: &Variables, larder: &LarderHome) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(environment).env("LARDER_CONFIG", larder.config_file()).stdin(Stdio::null());
    command
}

/// Writes a shell script with one line, which can be a hook.
pub(crate) fn script(dir: &Path, line: &str) -> Result<PathBuf> {
    let file = dir.join("hook.sh");
    fs::write(&file, format!("#!/bin/sh\n{line}\n"))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}
