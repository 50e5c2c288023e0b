//! Measures the cost of child processes, and interleaves the runs of the compared programs.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;
use wait4::Wait4;

/// The cost of one run. A value that was not measured or has no meaning is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// Seconds of processor time in user and system mode, of the child and of its own children that it waited for.
    pub(crate) cpu: Option<f64>,
    /// The highest resident set of the child alone, in bytes.
    pub(crate) peak: Option<f64>,
    /// The bytes below `nar/` in the bucket after the run.
    pub(crate) sent: Option<f64>,
}

impl Cost {
    /// A cost with only a time.
    pub(crate) fn wall(seconds: f64) -> Self {
        Self { wall: seconds, ..Self::default() }
    }

    /// The cost of children that ran at the same time: the sums of processor time and bytes, and the highest peak.
    pub(crate) fn together(wall: f64, costs: &[Self]) -> Self {
        let sum = |of: fn(&Self) -> Option<f64>| costs.iter().map(of).sum();
        let peaks = costs.iter().map(|cost| cost.peak).collect::<Option<Vec<_>>>();
        Self {
            wall,
            cpu: sum(|cost| cost.cpu),
            peak: peaks.and_then(|peaks| peaks.into_iter().reduce(f64::max)),
            sent: sum(|cost| cost.sent),
        }
    }

    /// The same cost without the bytes sent.
    pub(crate) fn nothing_sent(self) -> Self {
        Self { sent: None, ..self }
    }

    /// The same cost with the bytes sent.
    pub(crate) fn sent(self, bytes: u64) -> Self {
        Self { sent: Some(bytes as f64), ..self }
    }
}

/// A running child whose cost is measured.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    command: String,
    log: NamedTempFile,
    begun: Instant,
}

impl Running {
    /// Starts a command. The error of [`Running::finish`] includes the output of the command.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let log = NamedTempFile::new()?;
        command.stdin(Stdio::null()).stdout(log.reopen()?).stderr(log.reopen()?);
        let begun = Instant::now();
        let child = command.spawn()?;
        // The environment is left out, because it may contain credentials.
        let mut text = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
        text.truncate(text.floor_char_boundary(1000));
        Ok(Self { child, command: text, log, begun })
    }

    /// A signal with which another thread can end the child.
    pub(crate) fn end_signal(&self) -> EndSignal {
        EndSignal(Pid::from_child(&self.child))
    }

    /// Waits until the child ends. Fails if the child fails; the error includes the output of the child.
    pub(crate) fn finish(mut self) -> Result<Cost> {
        let (peak, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        let pid = self.child.id();
        let (usage, wall) = std::thread::scope(|scope| {
            // `ru_maxrss` of the kernel includes the memory of the parent before `exec`, so it is not used.
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    peak.fetch_max(peak_memory(pid).unwrap_or(0), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let usage = self.child.wait4();
            let wall = self.begun.elapsed().as_secs_f64();
            ended.store(true, Ordering::Relaxed);
            (usage, wall)
        });
        let usage = usage?;
        if !usage.status.success() {
            let output = fs::read(self.log.path())?;
            bail!("{}: {}\n{}", self.command, usage.status, String::from_utf8_lossy(&output));
        }
        let cpu = usage.rusage.utime + usage.rusage.stime;
        Ok(Cost {
            wall,
            cpu: Some(cpu.as_secs_f64()),
            peak: Some(peak.load(Ordering::Relaxed) as f64).filter(|peak| *peak > 0.0),
            sent: None,
        })
    }
}

/// A signal that ends a child. Send it while [`Running::finish`] waits: later, another process may have the same id.
#[derive(Debug)]
pub(crate) struct EndSignal(Pid);

impl EndSignal {
    /// Sends SIGTERM, as a service manager does.
    pub(crate) fn send(self) -> Result<()> {
        Ok(kill_process(self.0, Signal::TERM)?)
    }
}

/// Runs a command and measures its cost.
pub(crate) fn measure(command: &mut Command) -> Result<Cost> {
    Running::start(command)?.finish()
}

/// Interleaves the runs of the compared programs: A B A B …. So a change in the speed of the machine affects all programs.
/// `run` gets the number of the round and the index of the program. Round 0 warms the caches up and does not count.
///
/// Returns the costs of the counted rounds for each program.
pub(crate) fn interleave(
    rounds: usize,
    programs: usize,
    mut run: impl FnMut(usize, usize) -> Result<Cost>,
) -> Result<Vec<Vec<Cost>>> {
    let mut costs = vec![Vec::new(); programs];
    for round in 0..=rounds {
        for (which, costs) in costs.iter_mut().enumerate() {
            let cost = run(round, which)?;
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    Ok(costs)
}

/// The highest resident set of a process so far, in bytes.
fn peak_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_and_memory_of_a_child_are_measured() -> Result<()> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; sleep 0.2"]);
        let cost = measure(&mut shell)?;
        let (cpu, peak) = (cost.cpu.unwrap_or_default(), cost.peak.unwrap_or_default());
        assert!(cpu > 0.01 && cost.wall > cpu && cost.wall >= 0.2, "{cost:?}");
        assert!(peak > 100e3 && peak < 50e6, "{cost:?}");
        Ok(())
    }

    #[test]
    fn the_error_of_a_failed_command_includes_its_output() {
        let error = measure(Command::new("/bin/sh").args(["-c", "echo why; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn runs_are_interleaved_and_the_first_round_does_not_count() -> Result<()> {
        let mut order = Vec::new();
        let costs = interleave(2, 2, |round, which| {
            order.push((round, which));
            Ok(Cost::wall((10 * round + which) as f64))
        })?;
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
        assert_eq!(costs[1], [Cost::wall(11.0), Cost::wall(21.0)]);
        Ok(())
    }
}
