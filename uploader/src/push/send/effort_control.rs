//! Adapts the compression level to the bottleneck of a push.
//!
//! When the processor is the bottleneck, a low level is right. When the network is the bottleneck, a higher level uses
//! idle processor time to make smaller objects. The backlog of compressed parts tells which of the two limits the push:
//! many parts wait for a slow network, and none for a slow processor. The level also stays low while the machine is
//! busy with other work, such as builds.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::budget::Budget;
use super::compress::{Level, Settings};
use super::idle_meter::IdleMeter;
use crate::base::lock::lock;
use crate::push::progress::Effort;

/// The efforts of adaptive compression, in ascending order: a compression level, and whether zstd searches for
/// long-distance matches. That search takes a third of the time of level 1, and saves more bytes than level 3 does:
/// programs and their libraries repeat themselves over megabytes. Efforts that take more time than another and save no
/// more are left out.
const EFFORTS: [(i32, bool); 5] = [(1, false), (1, true), (3, true), (5, true), (6, true)];
/// The place in [`EFFORTS`] where a session begins: faster than the default of zstd, and with smaller results.
const FIRST_EFFORT: usize = 1;
/// Memory for the windows of all NARs that are compressed at the same time, in bytes. Each NAR gets an equal share. A
/// client needs memory for one window, and accepts a window of up to 128 MiB.
const WINDOW_MEMORY: u64 = 48 << 20;
/// The smallest and the largest window log with long-distance matching. A window has 2 to the power of its log bytes.
const WINDOW_LOGS: (u32, u32) = (20, 25);
/// The time between two adjustments.
const PERIOD: Duration = Duration::from_millis(400);
/// Above this backlog, the network is the bottleneck.
const NETWORK_BOUND: f64 = 0.6;
/// Below this backlog, the processor is the bottleneck. Between the two, the effort stays: the parts that wait keep the
/// network busy until a change has an effect.
const PROCESSOR_BOUND: f64 = 0.3;
/// The idle share of the machine that a higher effort needs.
const IDLE: f64 = 0.1;
/// The idle share of the machine below which the effort is lowered.
const BUSY: f64 = 0.02;
/// The size from which several threads compress a NAR, in bytes of NAR. For a smaller NAR, the division costs more than
/// it gains.
pub(super) const MANY_THREADS_FROM: u64 = 8 << 20;

/// Chooses the effort of compression for all uploads of a session.
pub(super) struct EffortControl {
    settings: Settings,
    /// The places for large NARs that are compressed. A free place means that no other NAR uses its processor.
    compressors: Arc<Semaphore>,
    /// The number of places.
    jobs: usize,
    budget: Budget,
    /// The place in [`EFFORTS`].
    current: AtomicUsize,
    last: Mutex<Measurement>,
}

/// The measurement of the last adjustment.
struct Measurement {
    at: Instant,
    backlog: f64,
    idle: IdleMeter,
}

impl EffortControl {
    /// A control for `jobs` large NARs that are compressed at the same time. `compressors` holds their places, all of
    /// them free.
    pub(super) fn new(settings: Settings, compressors: Arc<Semaphore>, jobs: usize, budget: Budget) -> Self {
        let last = Measurement { at: Instant::now(), backlog: 0.0, idle: IdleMeter::start() };
        Self {
            settings,
            compressors,
            jobs,
            budget,
            current: AtomicUsize::new(FIRST_EFFORT),
            last: Mutex::new(last),
        }
    }

    /// The settings of the user.
    pub(super) fn settings(&self) -> Settings {
        self.settings
    }

    /// The effort for a NAR of `nar_size` bytes at this time.
    pub(super) fn effort(&self, nar_size: u64) -> Effort {
        let (level, long_distance) = match self.settings.level {
            Level::Adaptive => EFFORTS[self.current.load(Ordering::Relaxed)],
            Level::Fixed(level) => (level, false),
        };
        // A window longer than the NAR would waste memory.
        let window = (WINDOW_MEMORY / self.jobs as u64).min(nar_size.next_power_of_two());
        let window_log = (long_distance && nar_size >= MANY_THREADS_FROM)
            .then(|| window.ilog2().clamp(WINDOW_LOGS.0, WINDOW_LOGS.1));
        let running = self.jobs.saturating_sub(self.compressors.available_permits()).max(1);
        let threads = if nar_size < MANY_THREADS_FROM { 1 } else { self.settings.threads as usize / running };
        Effort { level, threads: u32::try_from(threads).unwrap_or(1).max(1), window_log }
    }

    /// Adjusts the effort when the last adjustment is a period ago. Each thread that compresses calls this.
    pub(super) fn adjust(&self) {
        let mut last = lock(&self.last);
        if self.settings.level != Level::Adaptive || last.at.elapsed() < PERIOD {
            return;
        }
        last.at = Instant::now();
        let backlog = self.budget.backlog();
        let before = std::mem::replace(&mut last.backlog, backlog);
        let next = next_effort(self.current.load(Ordering::Relaxed), before, backlog, last.idle.share());
        self.current.store(next, Ordering::Relaxed);
    }
}

impl fmt::Debug for EffortControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EffortControl")
            .field("settings", &self.settings)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

/// The next place in [`EFFORTS`]. `before` and `backlog` are the backlogs of parts at the last adjustment and now;
/// `idle` is the idle share of the machine, where the system reports it.
fn next_effort(current: usize, before: f64, backlog: f64, idle: Option<f64>) -> usize {
    let highest = EFFORTS.len() - 1;
    // The backlog after the next period, when it changes as much as in the last period.
    let expected = 2.0 * backlog - before;
    if backlog.min(expected) < PROCESSOR_BOUND || idle.is_some_and(|idle| idle < BUSY) {
        return current.saturating_sub(1);
    }
    if backlog.min(expected) > NETWORK_BOUND && idle.is_none_or(|idle| idle > IDLE) {
        return (current + 1).min(highest);
    }
    current
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(level: Level, threads: u32, jobs: usize) -> (EffortControl, Arc<Semaphore>) {
        let compressors = Arc::new(Semaphore::new(jobs));
        let settings =
            Settings { compression: crate::format::object_keys::Compression::Zstd, level, threads };
        (EffortControl::new(settings, compressors.clone(), jobs, Budget::new(1, 1)), compressors)
    }

    #[test]
    fn a_slow_network_raises_the_effort_and_a_busy_processor_lowers_it() {
        assert_eq!(next_effort(2, 0.9, 0.9, Some(0.5)), 3, "the network is slow, the machine is idle");
        assert_eq!(next_effort(2, 0.9, 0.9, None), 3, "the network is slow, the idle share is unknown");
        assert_eq!(
            next_effort(2, 0.9, 0.9, Some(0.05)),
            2,
            "the network is slow, the machine is hardly idle"
        );
        assert_eq!(next_effort(2, 0.9, 0.9, Some(0.0)), 1, "the machine is busy with other work");
        assert_eq!(next_effort(2, 0.0, 0.0, Some(0.5)), 1, "the processor is the bottleneck");
        assert_eq!(next_effort(2, 0.9, 0.7, Some(0.5)), 2, "the backlog shrinks");
        assert_eq!(next_effort(2, 0.9, 0.5, Some(0.5)), 1, "the backlog is about to end");
        assert_eq!(next_effort(2, 0.5, 0.5, Some(0.5)), 2, "the backlog is between the two bounds");
        assert_eq!(next_effort(0, 0.0, 0.0, None), 0);
        assert_eq!(next_effort(EFFORTS.len() - 1, 1.0, 1.0, None), EFFORTS.len() - 1);
    }

    #[test]
    fn a_large_nar_alone_gets_all_threads() {
        let (control, compressors) = control(Level::Fixed(4), 8, 8);
        let large = MANY_THREADS_FROM;
        let first = compressors.clone().try_acquire_owned().unwrap();
        assert_eq!(control.effort(large), Effort { level: 4, threads: 8, window_log: None });
        assert_eq!(control.effort(large - 1).threads, 1);
        let others: Vec<_> = (0..7).map(|_| compressors.clone().try_acquire_owned().unwrap()).collect();
        assert_eq!(control.effort(large).threads, 1);
        drop(others);
        assert_eq!(control.effort(large).threads, 8);
        drop(first);
    }

    #[test]
    fn windows_share_their_memory() {
        for jobs in [1, 2, 4, 16, 64] {
            let (control, _compressors) = control(Level::Adaptive, 1, jobs);
            let log = control.effort(1 << 40).window_log.unwrap();
            let memory = (jobs as u64) << log;
            assert!(memory <= WINDOW_MEMORY.max((jobs as u64) << WINDOW_LOGS.0), "{jobs} jobs: log {log}");
            assert_eq!(control.effort(MANY_THREADS_FROM - 1).window_log, None, "a small NAR needs none");
            assert!(1 << control.effort(9 << 20).window_log.unwrap() <= 16 << 20);
        }
    }

    #[test]
    fn a_fixed_level_stays() {
        let (control, _compressors) = control(Level::Fixed(7), 1, 1);
        control.last.lock().unwrap().at -= PERIOD;
        control.adjust();
        assert_eq!(control.effort(1).level, 7);
    }

    #[test]
    fn the_effort_changes_once_a_period() {
        let (control, _compressors) = control(Level::Adaptive, 1, 1);
        control.adjust();
        assert_eq!(control.current.load(Ordering::Relaxed), FIRST_EFFORT, "the period is not over");
        control.last.lock().unwrap().at -= PERIOD;
        control.adjust();
        assert_eq!(control.current.load(Ordering::Relaxed), FIRST_EFFORT - 1, "no part waits");
    }
}
