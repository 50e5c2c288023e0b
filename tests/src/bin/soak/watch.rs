//! Looking at an agent from outside: its memory, and whether `larder status` tells what is.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use larder_tests::larder::LarderHome;
use serde_json::Value;

/// Hooks that may be about to queue something.
const AT_ONCE: usize = 8;
/// What has left the queue and is not counted yet: four pushes of 256 jobs.
const UNWRITTEN: usize = 1024;

/// What is watched, and what was seen.
pub(crate) struct Watch<'a> {
    larder: &'a LarderHome,
    pid: u32,
    memory: Mutex<Vec<f64>>,
    looks: AtomicUsize,
}

impl<'a> Watch<'a> {
    /// Watches the agent in this process group.
    pub(crate) fn of(larder: &'a LarderHome, pid: u32) -> Self {
        Self { larder, pid, memory: Mutex::default(), looks: AtomicUsize::new(0) }
    }

    /// Compares `larder status` with what was `queued` before it was asked and after. The number of paths that wait.
    pub(crate) fn look(&self, before: usize, queued: impl Fn() -> usize) -> Result<usize> {
        let output = self.larder.run(&["status", "--json"])?;
        let status: Value = serde_json::from_str(&output.stdout).context("reading the status")?;
        let number = |of: &str, name: &str| -> Result<usize> {
            let number =
                status[of][name].as_u64().with_context(|| format!("no `{of}.{name}` in {status}"))?;
            Ok(usize::try_from(number)?)
        };
        let (waiting, pushed) = (number("queued", "paths")?, number("summary", "pushed")?);
        ensure!(status["agentRunning"] == true, "the agent is said not to run: {status}");
        for list in ["parked", "unreadable"] {
            ensure!(status[list].as_array().is_some_and(Vec::is_empty), "something is {list}: {status}");
        }
        // Each build is one path: no more wait than were ever queued, and what does not wait is pushed.
        let after = queued() + AT_ONCE;
        ensure!(waiting <= after, "{waiting} are said to wait of {after}");
        ensure!(waiting + pushed + UNWRITTEN >= before, "{waiting} wait and {pushed} are pushed of {before}");
        self.memory.lock().expect("the memory's lock").push(self.now()?);
        self.looks.fetch_add(1, Ordering::Relaxed);
        Ok(waiting)
    }

    /// The agent's memory now, in MiB.
    pub(crate) fn now(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).context("the agent is gone")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// How often was looked.
    pub(crate) fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// The most memory in each quarter of the time.
    pub(crate) fn memory(&self) -> Result<Vec<f64>> {
        let memory = self.memory.lock().expect("the memory's lock");
        ensure!(memory.len() >= 4, "too short to tell anything");
        let quarter = memory.len().div_ceil(4);
        Ok(memory.chunks(quarter).map(|part| part.iter().copied().fold(0.0, f64::max)).collect())
    }
}
