//! Fail points: places in the code at which a test can kill the process. Without the feature `faults`, all functions
//! of this module compile to nothing.
//!
//! `LARDER_FAULT=NAME:N` kills the process with SIGKILL when it passes the fail point NAME for the `N`th time.
//! `LARDER_FAULT=*:N` kills the process at the `N`th fail point of any name. `LARDER_FAULT="stop NAME:N"` stops it with SIGSTOP
//! instead. With `LARDER_FAULT_LOG=FILE`, the process appends the name of each fail point that it passes to that file.
//! A word without a number makes the process break a rule, so that a test can show that it finds this out. `LARDER_FAULT` may
//! hold several of these, with commas between them.

/// Whether fail points are compiled in.
pub const COMPILED_IN: bool = cfg!(feature = "faults");

/// A fail point: a test can kill the process here.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// A fail point: a test can kill the process here.
#[cfg(feature = "faults")]
pub fn point(name: &'static str) {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    if let Some(file) = std::env::var_os("LARDER_FAULT_LOG")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(file)
    {
        // A single write, so that the lines of several threads do not mix.
        let _ = file.write_all(format!("{name}\n").as_bytes());
    }
    let Ok(wanted) = std::env::var("LARDER_FAULT") else { return };
    let Some((wanted, count)) = wanted.split(',').find_map(|one| one.rsplit_once(':')) else { return };
    let (which, signal) = match wanted.strip_prefix("stop ") {
        Some(which) => (which, rustix::process::Signal::STOP),
        None => (wanted, rustix::process::Signal::KILL),
    };
    if (which == "*" || which == name) && count.parse() == Ok(PASSED.fetch_add(1, Ordering::SeqCst) + 1) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
}

/// Whether `LARDER_FAULT` has the word `word`.
#[cfg(feature = "faults")]
pub fn is(word: &str) -> bool {
    std::env::var("LARDER_FAULT").is_ok_and(|wanted| wanted.split(',').any(|one| one == word))
}

/// Whether `LARDER_FAULT` has the word `word`: without the feature `faults`, always false.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn is(_word: &str) -> bool {
    false
}

/// What a test divides all times of the protocol of collections by, with the variable `LARDER_TIME_DIVISOR`.
#[cfg(feature = "faults")]
pub fn time_divisor() -> u32 {
    std::env::var("LARDER_TIME_DIVISOR").ok().and_then(|divisor| divisor.parse().ok()).unwrap_or(1)
}

/// What a test divides all times of the protocol of collections by: without the feature `faults`, 1.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn time_divisor() -> u32 {
    1
}
