//! How hard a push compresses: the level follows what limits it.
//!
//! Where the processor is the limit, the fast level is the right one. Where the wire is, idle processor time buys
//! smaller objects. Which it is shows in the compressed parts that wait to be sent: many, or none. That, and how much of
//! the machine is idle, moves the level up or down a ladder. A machine that is busy with other work, builds above all,
//! is not idle, and gets the fast level.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::budget::Budget;
use super::compress::{Level, Settings};
use crate::base::lock::lock;
use crate::push::progress::Effort;

/// What is in question, each worth its time: what costs more than the next and saves no more is left out. The search
/// for long matches costs a third of level 1's time and saves more than level 3 does, since programs and their
/// libraries repeat themselves over megabytes.
const LADDER: [(i32, bool); 5] = [(1, false), (1, true), (3, true), (5, true), (6, true)];
/// Where a session begins: faster than zstd's own default, and smaller.
const BEGIN: usize = 1;
/// Memory for the windows of all NARs that are compressed at the same time; one window is a share of it. Readers need
/// one window, and take up to 128 MiB.
const WINDOWS: u64 = 48 << 20;
/// The longest and the shortest window with which long matches are searched.
const REACH: (u32, u32) = (20, 25);
/// How long it is looked on before the level moves.
const PERIOD: Duration = Duration::from_millis(400);
/// A backlog above this means that the wire is the limit; one below the other, that the processor is. Between them the
/// level stays: what is pending then keeps the wire busy until a change shows.
const WIRE: f64 = 0.6;
const PROCESSOR: f64 = 0.3;
/// This share of the machine must be idle for a higher level, and is kept free by a lower one.
const IDLE: f64 = 0.1;
const BUSY: f64 = 0.02;
/// Below this size, a NAR is compressed by one thread: splitting it costs more than it gains.
pub(super) const MANY_THREADS_FROM: u64 = 8 << 20;

/// Decides, for all uploads of a session together.
pub(super) struct Pace {
    settings: Settings,
    /// The turns that large NARs take; free ones mean that nobody else wants the processor.
    turns: Arc<Semaphore>,
    most: usize,
    budget: Budget,
    step: AtomicUsize,
    seen: Mutex<Seen>,
}

/// The last decision.
struct Seen {
    since: Instant,
    backlog: f64,
    idle: IdleMeter,
}

impl Pace {
    /// With `most` turns for large NARs, all of them free now.
    pub(super) fn new(settings: Settings, turns: Arc<Semaphore>, most: usize, budget: Budget) -> Self {
        let seen = Seen { since: Instant::now(), backlog: 0.0, idle: IdleMeter::start() };
        Self { settings, turns, most, budget, step: AtomicUsize::new(BEGIN), seen: Mutex::new(seen) }
    }

    /// What the user wants.
    pub(super) fn settings(&self) -> Settings {
        self.settings
    }

    /// With which effort a NAR of this size is to be compressed now.
    pub(super) fn effort(&self, nar_size: u64) -> Effort {
        let (level, far) = match self.settings.level {
            Level::Adaptive => LADDER[self.step.load(Ordering::Relaxed)],
            Level::Fixed(level) => (level, false),
        };
        // A window is not longer than what it looks back on.
        let window = (WINDOWS / self.most as u64).min(nar_size.next_power_of_two());
        let reach = (far && nar_size >= MANY_THREADS_FROM).then(|| window.ilog2().clamp(REACH.0, REACH.1));
        let running = self.most.saturating_sub(self.turns.available_permits()).max(1);
        let threads = if nar_size < MANY_THREADS_FROM { 1 } else { self.settings.threads as usize / running };
        Effort { level, threads: u32::try_from(threads).unwrap_or(1).max(1), reach }
    }

    /// Looks what the limit is, and moves the level when it is time. Every thread that compresses calls this.
    pub(super) fn look(&self) {
        let mut seen = lock(&self.seen);
        if self.settings.level != Level::Adaptive || seen.since.elapsed() < PERIOD {
            return;
        }
        seen.since = Instant::now();
        let backlog = self.budget.backlog();
        let before = std::mem::replace(&mut seen.backlog, backlog);
        let step = next(self.step.load(Ordering::Relaxed), before, backlog, seen.idle.share());
        self.step.store(step, Ordering::Relaxed);
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace")
            .field("settings", &self.settings)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

/// The next step of the ladder, with this backlog of parts before and now, and this share of the machine idle, if that
/// is known.
fn next(step: usize, before: f64, backlog: f64, idle: Option<f64>) -> usize {
    let top = LADDER.len() - 1;
    // What it will be after another period like the last.
    let soon = 2.0 * backlog - before;
    if backlog.min(soon) < PROCESSOR || idle.is_some_and(|idle| idle < BUSY) {
        return step.saturating_sub(1);
    }
    if backlog.min(soon) > WIRE && idle.is_none_or(|idle| idle > IDLE) {
        return (step + 1).min(top);
    }
    step
}

/// Tells how much of the machine was idle since it was last asked.
#[derive(Debug)]
struct IdleMeter {
    last: Option<(u64, u64)>,
}

impl IdleMeter {
    fn start() -> Self {
        Self { last: jiffies() }
    }

    /// The share of processor time that nobody used; `None` where the system does not tell.
    fn share(&mut self) -> Option<f64> {
        let now = jiffies();
        let last = std::mem::replace(&mut self.last, now)?;
        let (idle, all) = now?;
        let (idle, all) = (idle.checked_sub(last.0)?, all.checked_sub(last.1)?);
        (all > 0).then(|| idle as f64 / all as f64)
    }
}

/// Idle time and all time of all processors since boot. Source: proc_stat(5).
fn jiffies() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    parse_stat(&stat)
}

fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guest time is part of user time already.
    let times: Vec<u64> = line.split_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
    let idle = times.get(3)? + times.get(4).unwrap_or(&0);
    Some((idle, times.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(level: Level, threads: u32, most: usize) -> (Pace, Arc<Semaphore>) {
        let turns = Arc::new(Semaphore::new(most));
        let settings =
            Settings { compression: crate::format::object_keys::Compression::Zstd, level, threads };
        (Pace::new(settings, turns.clone(), most, Budget::new(1, 1)), turns)
    }

    #[test]
    fn the_wire_raises_and_the_processor_lowers() {
        assert_eq!(next(2, 0.9, 0.9, Some(0.5)), 3, "wire-bound, idle machine");
        assert_eq!(next(2, 0.9, 0.9, None), 3, "wire-bound, nothing known of the machine");
        assert_eq!(next(2, 0.9, 0.9, Some(0.05)), 2, "wire-bound, hardly anything idle");
        assert_eq!(next(2, 0.9, 0.9, Some(0.0)), 1, "the machine has other work");
        assert_eq!(next(2, 0.0, 0.0, Some(0.5)), 1, "processor-bound");
        assert_eq!(next(2, 0.9, 0.7, Some(0.5)), 2, "wire-bound, but no longer for long");
        assert_eq!(next(2, 0.9, 0.5, Some(0.5)), 1, "the wire will soon have nothing to do");
        assert_eq!(next(2, 0.5, 0.5, Some(0.5)), 2, "between the two");
        assert_eq!(next(0, 0.0, 0.0, None), 0);
        assert_eq!(next(LADDER.len() - 1, 1.0, 1.0, None), LADDER.len() - 1);
    }

    #[test]
    fn a_large_nar_alone_gets_all_threads() {
        let (pace, turns) = pace(Level::Fixed(4), 8, 8);
        let large = MANY_THREADS_FROM;
        let first = turns.clone().try_acquire_owned().unwrap();
        assert_eq!(pace.effort(large), Effort { level: 4, threads: 8, reach: None });
        assert_eq!(pace.effort(large - 1).threads, 1);
        let others: Vec<_> = (0..7).map(|_| turns.clone().try_acquire_owned().unwrap()).collect();
        assert_eq!(pace.effort(large).threads, 1);
        drop(others);
        assert_eq!(pace.effort(large).threads, 8);
        drop(first);
    }

    #[test]
    fn windows_share_their_memory() {
        for most in [1, 2, 4, 16, 64] {
            let (pace, _turns) = pace(Level::Adaptive, 1, most);
            let reach = pace.effort(1 << 40).reach.unwrap();
            assert!((most as u64) << reach <= WINDOWS.max((most as u64) << REACH.0), "{most}: {reach}");
            assert_eq!(pace.effort(MANY_THREADS_FROM - 1).reach, None, "small NARs need none");
            assert!(1 << pace.effort(9 << 20).reach.unwrap() <= 16 << 20);
        }
    }

    #[test]
    fn a_fixed_level_stays() {
        let (pace, _turns) = pace(Level::Fixed(7), 1, 1);
        pace.seen.lock().unwrap().since -= PERIOD;
        pace.look();
        assert_eq!(pace.effort(1).level, 7);
    }

    #[test]
    fn the_level_moves_once_a_period() {
        let (pace, _turns) = pace(Level::Adaptive, 1, 1);
        pace.look();
        assert_eq!(pace.step.load(Ordering::Relaxed), BEGIN, "not before a period is over");
        pace.seen.lock().unwrap().since -= PERIOD;
        pace.look();
        assert_eq!(pace.step.load(Ordering::Relaxed), BEGIN - 1, "nothing is pending");
    }

    #[test]
    fn the_kernel_s_account_is_read() {
        let stat = "cpu  10 1 5 100 20 0 2 3 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_stat(stat), Some((120, 141)));
        assert_eq!(parse_stat("intr 5"), None);
    }
}
