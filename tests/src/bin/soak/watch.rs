//! Watches a running agent: its memory, and whether `larder status` is right.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use larder_tests::larder::LarderHome;
use serde_json::Value;

/// The number of jobs that hooks may have queued and not yet counted.
const UNCOUNTED_JOBS: usize = 8;
/// The number of jobs that may have left the queue without being in the summary yet: four pushes of 256 jobs.
const UNRECORDED_JOBS: usize = 1024;

/// A watched agent, with the results of the checks.
pub(crate) struct Watch<'a> {
    larder: &'a LarderHome,
    pid: u32,
    memory: Mutex<Vec<f64>>,
    checks: AtomicUsize,
}

impl<'a> Watch<'a> {
    /// Watches the agent with the process id `pid`.
    pub(crate) fn of(larder: &'a LarderHome, pid: u32) -> Self {
        Self { larder, pid, memory: Mutex::default(), checks: AtomicUsize::new(0) }
    }

    /// Compares `larder status` with the number of queued paths before and after the command. Records the memory of the agent.
    /// Returns the number of paths that wait.
    pub(crate) fn check(&self, before: usize, queued: impl Fn() -> usize) -> Result<usize> {
        let output = self.larder.run(&["status", "--json"])?;
        let status: Value =
            serde_json::from_str(&output.stdout).context("parsing the output of `larder status --json`")?;
        let number = |object: &str, name: &str| -> Result<usize> {
            let number =
                status[object][name].as_u64().with_context(|| format!("no `{object}.{name}` in {status}"))?;
            Ok(usize::try_from(number)?)
        };
        let (waiting, pushed) = (number("queued", "paths")?, number("summary", "pushed")?);
        ensure!(status["agentRunning"] == true, "the status says that the agent does not run: {status}");
        for list in ["parked", "unreadable"] {
            ensure!(
                status[list].as_array().is_some_and(Vec::is_empty),
                "the status has {list} paths: {status}"
            );
        }
        // Each build has one path. At most all queued paths wait, and each other path is pushed.
        let after = queued() + UNCOUNTED_JOBS;
        ensure!(
            waiting <= after,
            "the status says that {waiting} paths wait, but at most {after} are queued"
        );
        ensure!(
            waiting + pushed + UNRECORDED_JOBS >= before,
            "of {before} queued paths, {waiting} wait and {pushed} are pushed; the others are missing"
        );
        self.memory.lock().expect("a thread that watches the memory panicked").push(self.memory_now()?);
        self.checks.fetch_add(1, Ordering::Relaxed);
        Ok(waiting)
    }

    /// The current resident set of the agent, in MiB.
    pub(crate) fn memory_now(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .context("the agent does not run any more")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("the kernel shows no `VmRSS`")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// The number of checks so far.
    pub(crate) fn checks(&self) -> usize {
        self.checks.load(Ordering::Relaxed)
    }

    /// The peak memory in each quarter of the time, in MiB.
    pub(crate) fn memory(&self) -> Result<Vec<f64>> {
        let memory = self.memory.lock().expect("a thread that watches the memory panicked");
        ensure!(
            memory.len() >= 4,
            "the run is too short to show whether the memory grows: queue more builds"
        );
        let quarter = memory.len().div_ceil(4);
        Ok(memory.chunks(quarter).map(|part| part.iter().copied().fold(0.0, f64::max)).collect())
    }
}
