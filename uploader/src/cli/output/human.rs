//! Shows a push to a person: a progress bar on a terminal, plain lines elsewhere.

use std::time::Duration;

use nix_derivation::StorePath;

use super::bar::Bar;
use super::compression::{CompressionStatistics, Levels};
use super::quantity::{count, size};
use super::terminal::{is_terminal, say};
use crate::push::decide::{Action, Plan};
use crate::push::progress::Effort;
use crate::push::{Outcome, OutcomeKind, Progress, Report};

/// Renders a push for people, on standard error.
pub(in crate::cli) struct Human {
    bar: Option<Bar>,
    address: String,
    quiet: bool,
    compression: CompressionStatistics,
}

impl Human {
    /// A renderer for pushes to the bucket at `address`. A quiet renderer shows no plan and no bar: an agent pushes
    /// many times, and only the outcomes matter in its log.
    pub(in crate::cli) fn new(address: String, quiet: bool) -> Self {
        let terminal = is_terminal() && std::env::var_os("CI").is_none() && !quiet;
        Self { bar: terminal.then(Bar::new), address, quiet, compression: CompressionStatistics::default() }
    }

    /// A line with the totals of a push that took this long.
    pub(in crate::cli) fn totals(&self, report: &Report, took: Duration) -> String {
        totals(report, took, self.compression.levels())
    }

    /// Removes the bar.
    pub(in crate::cli) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.remove();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.above(|| say(text)),
            None => say(text),
        }
    }
}

/// The line that announces a plan.
fn header(plan: &Plan, address: &str) -> String {
    let (upload, sign) = plan.todo.iter().fold((0, 0), |(upload, sign), todo| match todo.action {
        Action::Upload => (upload + 1, sign),
        Action::Sign => (upload, sign + 1),
    });
    let mut parts = Vec::new();
    if sign > 0 {
        parts.push(format!("{sign} to be signed"));
    }
    for (kind, label) in [
        (OutcomeKind::Present, "already there"),
        (OutcomeKind::Differs, "there as another build"),
        (OutcomeKind::Unusable, "there but unusable"),
        (OutcomeKind::Upstream, "upstream"),
        (OutcomeKind::Excluded, "excluded"),
        (OutcomeKind::Refused, "refused"),
        (OutcomeKind::Gone, "gone"),
        (OutcomeKind::Blocked, "blocked"),
        (OutcomeKind::Failed, "unclear"),
    ] {
        let number = plan.settled.count(kind);
        if number > 0 {
            parts.push(format!("{number} {label}"));
        }
    }
    let rest = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    if upload + sign == 0 {
        format!("nothing to push to {address}{rest}")
    } else {
        format!("pushing {} to {address}{rest}", count(upload, "path"))
    }
}

fn totals(report: &Report, took: Duration, levels: Option<Levels>) -> String {
    let (nar, sent) = report.bytes();
    let level = match levels {
        None => String::new(),
        Some(Levels { lowest, highest }) if lowest == highest => format!(" at level {lowest}"),
        Some(Levels { lowest, highest }) => format!(" at levels {lowest} to {highest}"),
    };
    let pushed = report.count(OutcomeKind::Pushed);
    let mut text = format!("{pushed} pushed ({} of NAR, {} sent{level})", size(nar), size(sent));
    for kind in [
        OutcomeKind::Signed,
        OutcomeKind::Unusable,
        OutcomeKind::Failed,
        OutcomeKind::Refused,
        OutcomeKind::Blocked,
        OutcomeKind::Gone,
    ] {
        let number = report.count(kind);
        if number > 0 {
            text.push_str(&format!(", {number} {}", kind.word()));
        }
    }
    format!("{text} in {:.1} s", took.as_secs_f64())
}

impl Progress for Human {
    fn planned(&self, plan: &Plan) {
        if !self.quiet {
            self.line(&header(plan, &self.address));
        }
        // Another build of a path matters to those who build against it.
        let is_told = |kind: OutcomeKind| {
            kind.is_unfinished() || (kind == OutcomeKind::Differs && !plan.todo.is_empty())
        };
        for (path, outcome) in &plan.settled.outcomes {
            if is_told(outcome.kind()) {
                self.finished(path, outcome);
            }
        }
        if let Some(bar) = &self.bar {
            let uploads = plan.todo.iter().filter(|todo| todo.action == Action::Upload);
            bar.set_length(uploads.map(|todo| todo.info.nar_size).sum());
        }
    }

    fn advanced(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.advance(bytes);
        }
    }

    fn compressed(&self, from: u64, to: u64, effort: Effort) {
        self.compression.add(from, to, effort);
        if let Some(bar) = &self.bar {
            bar.set_remark(format!("level {}, to {:.0} %", effort.level, self.compression.percent()));
        }
    }

    fn finished(&self, path: &StorePath, outcome: &Outcome) {
        let detail = match outcome {
            Outcome::Pushed { sent: 0, nar_size } => {
                format!(" ({}, shares an object of equal contents)", size(*nar_size))
            }
            Outcome::Pushed { sent, nar_size } => format!(" ({} as {})", size(*nar_size), size(*sent)),
            other => other.reason().map(|reason| format!(": {reason}")).unwrap_or_default(),
        };
        self.line(&format!("{} {}{detail}", outcome.kind().word(), path.to_basename()));
        if let Outcome::Failed(error) = outcome
            && let Some(hint) = error.hint_text()
        {
            self.line(&format!("  hint: {hint}"));
        }
    }

    fn remark(&self, text: &str) {
        self.line(text);
    }
}
