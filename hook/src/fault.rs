//! Fail points, for tests: places at which a process may be killed. Without the feature `faults` there are none, and
//! what stands here compiles to nothing.
//!
//! `LARDER_FAULT=NAME:N` kills the process with SIGKILL when it passes the point NAME for the `N`th time, and `*:N` at
//! the `N`th point of any name. `LARDER_FAULT_LOG=FILE` has the name of each point that is passed appended to a file.

/// Whether fail points are compiled in.
pub const COMPILED_IN: bool = cfg!(feature = "faults");

/// A place at which a test may kill this process.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// A place at which a test may kill this process.
#[cfg(feature = "faults")]
pub fn point(name: &'static str) {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    if let Some(file) = std::env::var_os("LARDER_FAULT_LOG")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(file)
    {
        // One write, so that lines of several threads do not mix.
        let _ = file.write_all(format!("{name}\n").as_bytes());
    }
    let Ok(wanted) = std::env::var("LARDER_FAULT") else { return };
    let Some((which, count)) = wanted.rsplit_once(':') else { return };
    if (which == "*" || which == name) && count.parse() == Ok(PASSED.fetch_add(1, Ordering::SeqCst) + 1) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Whether `LARDER_FAULT` is this word.
#[cfg(feature = "faults")]
pub fn is(word: &str) -> bool {
    std::env::var("LARDER_FAULT").is_ok_and(|wanted| wanted == word)
}

/// Whether `LARDER_FAULT` is this word: never, without fail points.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn is(_word: &str) -> bool {
    false
}
