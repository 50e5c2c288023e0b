//! Measures the share of processor time that no process of the machine uses.

use std::fs;

/// Measures the idle share of processor time since the last measurement.
#[derive(Debug)]
pub(super) struct IdleMeter {
    /// The times at the last measurement.
    last: Option<Times>,
}

/// The time of all processors since boot, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    idle: u64,
    all: u64,
}

impl IdleMeter {
    /// A meter whose first measurement begins now.
    pub(super) fn start() -> Self {
        Self { last: read_times() }
    }

    /// The idle share of processor time since the last call, between 0 and 1. `None` where the system does not report
    /// it.
    pub(super) fn share(&mut self) -> Option<f64> {
        let now = read_times();
        let last = std::mem::replace(&mut self.last, now)?;
        let now = now?;
        let (idle, all) = (now.idle.checked_sub(last.idle)?, now.all.checked_sub(last.all)?);
        (all > 0).then(|| idle as f64 / all as f64)
    }
}

fn read_times() -> Option<Times> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    parse_stat(&stat)
}

/// Reads the first line of `/proc/stat`. Source: proc_stat(5).
fn parse_stat(stat: &str) -> Option<Times> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // The fields: user nice system idle iowait irq softirq steal. The guest time after them is a part of the user time.
    let times: Vec<u64> = line.split_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
    let idle = times.get(3)? + times.get(4).unwrap_or(&0);
    Some(Times { idle, all: times.iter().sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_includes_the_wait_for_disks_and_guest_time_counts_once() {
        let stat = "cpu  10 1 5 100 20 0 2 3 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_stat(stat), Some(Times { idle: 120, all: 141 }));
        assert_eq!(parse_stat("intr 5"), None);
    }
}
