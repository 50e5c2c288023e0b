//! A gate that holds threads until the test opens it: for tests that show what happens, or does not happen, meanwhile.

use crate::process::eventually;
use anyhow::Result;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A closed gate. Its clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    open: bool,
    waiting: usize,
}

impl Gate {
    /// Waits until the gate is open.
    pub fn pass(&self) {
        let (_, opened) = &*self.0;
        let mut state = self.state();
        state.waiting += 1;
        while !state.open {
            state = opened.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    /// Opens the gate for those who wait and for all who come.
    pub fn open(&self) {
        self.state().open = true;
        self.0.1.notify_all();
    }

    /// Returns how many threads wait.
    pub fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// Waits until this many threads wait at the gate.
    ///
    /// # Errors
    /// When they do not come within `timeout`.
    pub fn wait_for(&self, threads: usize, timeout: Duration) -> Result<()> {
        eventually(&format!("{threads} waiting at the gate"), timeout, || self.waiting() >= threads)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn threads_wait_until_the_gate_is_open() {
        let gate = Gate::default();
        let thread = thread::spawn({
            let gate = gate.clone();
            move || gate.pass()
        });
        gate.wait_for(1, Duration::from_secs(60)).unwrap();
        assert!(!thread.is_finished());
        gate.open();
        thread.join().unwrap();
        gate.pass();
        assert_eq!(gate.waiting(), 0);
    }
}
