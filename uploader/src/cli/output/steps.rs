//! The progress of a command that counts things.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::terminal::is_terminal;

/// A progress bar on a terminal; nothing elsewhere.
pub(in crate::cli) struct Steps(Option<ProgressBar>);

impl Steps {
    /// A bar that counts `things`. It is not drawn before the first number.
    pub(in crate::cli) fn new(things: &str) -> Self {
        if !is_terminal() || std::env::var_os("CI").is_some() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        let template = format!("{{spinner}} {{pos}}/{{len}} {things} {{wide_bar}} {{eta}}");
        bar.set_style(
            ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self(Some(bar))
    }

    /// Shows that so many of all are done.
    pub(in crate::cli) fn set(&self, done: usize, all: usize) {
        if let Some(bar) = &self.0 {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        }
    }

    /// Removes the bar.
    pub(in crate::cli) fn remove(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
