//! Measuring: what a child costs, and contestants that take turns.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;
use wait4::Wait4;

/// What one run took. What was not measured, or means nothing, is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// Seconds of processor time, user's and system's, of the child and the children that it waited for.
    pub(crate) cpu: Option<f64>,
    /// Bytes of memory at the highest, of the child alone.
    pub(crate) peak: Option<f64>,
    /// Bytes that lie in the bucket below `nar/` afterwards.
    pub(crate) sent: Option<f64>,
}

impl Cost {
    /// A cost of which only the time is known.
    pub(crate) fn wall(seconds: f64) -> Self {
        Self { wall: seconds, ..Self::default() }
    }

    /// Of children that ran at the same time: processor time and bytes added up, the highest of their peaks.
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

    /// The same, with nothing said of bytes.
    pub(crate) fn nothing_sent(self) -> Self {
        Self { sent: None, ..self }
    }

    /// The same, with the bytes sent.
    pub(crate) fn sent(self, bytes: u64) -> Self {
        Self { sent: Some(bytes as f64), ..self }
    }
}

/// A started child that is being measured.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    command: String,
    log: NamedTempFile,
    begun: Instant,
}

impl Running {
    /// Starts a command. Its output goes to a file, which is shown if it fails.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let log = NamedTempFile::new()?;
        command.stdin(Stdio::null()).stdout(log.reopen()?).stderr(log.reopen()?);
        let begun = Instant::now();
        let child = command.spawn()?;
        // Not the whole command: its environment may hold credentials.
        let mut text = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
        text.truncate(text.floor_char_boundary(1000));
        Ok(Self { child, command: text, log, begun })
    }

    /// A way to ask it to end, from another thread.
    pub(crate) fn ender(&self) -> Ender {
        Ender(Pid::from_child(&self.child))
    }

    /// Waits for its end. A failure is an error that shows what it printed.
    pub(crate) fn finish(mut self) -> Result<Cost> {
        let (peak, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        let pid = self.child.id();
        let (usage, wall) = std::thread::scope(|scope| {
            // The kernel's own account of a child's highest memory begins with that of the process that started it.
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    peak.fetch_max(high_water(pid).unwrap_or(0), Ordering::Relaxed);
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

/// Asks a child to end. To be used while it is being waited for, and once.
#[derive(Debug)]
pub(crate) struct Ender(Pid);

impl Ender {
    /// As a service manager does.
    pub(crate) fn end(self) -> Result<()> {
        Ok(kill_process(self.0, Signal::TERM)?)
    }
}

/// Runs a command to its end.
pub(crate) fn measure(command: &mut Command) -> Result<Cost> {
    Running::start(command)?.finish()
}

/// Lets contestants take turns, A B A B …, so that a machine that becomes slower or faster does so for all. The first
/// round warms caches up and is not counted; `run` is given a number that differs in each round, and the contestant.
///
/// Returns the counted costs of each contestant.
pub(crate) fn in_turns(
    rounds: usize,
    contestants: usize,
    mut run: impl FnMut(usize, usize) -> Result<Cost>,
) -> Result<Vec<Vec<Cost>>> {
    let mut costs = vec![Vec::new(); contestants];
    for round in 0..=rounds {
        for (who, costs) in costs.iter_mut().enumerate() {
            let cost = run(round, who)?;
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    Ok(costs)
}

/// The highest memory of a process so far, in bytes.
fn high_water(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_measured() -> Result<()> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; sleep 0.2"]);
        let cost = measure(&mut shell)?;
        let (cpu, peak) = (cost.cpu.unwrap_or_default(), cost.peak.unwrap_or_default());
        assert!(cpu > 0.01 && cost.wall > cpu && cost.wall >= 0.2, "{cost:?}");
        assert!(peak > 100e3 && peak < 50e6, "{cost:?}");
        Ok(())
    }

    #[test]
    fn failures_show_the_output() {
        let error = measure(Command::new("/bin/sh").args(["-c", "echo why; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn turns_are_taken() -> Result<()> {
        let mut order = Vec::new();
        let costs = in_turns(2, 2, |round, who| {
            order.push((round, who));
            Ok(Cost::wall((10 * round + who) as f64))
        })?;
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
        assert_eq!(costs[1], [Cost::wall(11.0), Cost::wall(21.0)]);
        Ok(())
    }
}
