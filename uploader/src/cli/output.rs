//! Terminal output: errors, warnings, and three renderings of a push's progress.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix_derivation::{StoreDir, StorePath};
use serde_json::json;

use crate::base::error::Error;
use crate::base::lock::lock;
use crate::push::decide::{Action, Plan};
use crate::push::progress::Effort;
use crate::push::{Outcome, Progress, Report};

/// Prints an error and its way out.
pub(super) fn error(error: &Error) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{} {error}", style("error:", "31"));
    if let Some(hint) = error.hint_text() {
        let _ = writeln!(stderr, "\n{} {hint}", style("hint:", "36"));
    }
}

/// Prints a warning.
pub(super) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{} {text}", style("warning:", "33"));
}

/// Prints a line for people.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a line of data. A reader that has gone away is no error.
pub(super) fn data(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn style(text: &str, colour: &str) -> String {
    let wanted = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if wanted { format!("\u{1b}[1;{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// A number of things for people.
pub(super) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// The words of a plan's header.
pub(super) fn header(plan: &Plan, address: &str) -> String {
    let (upload, sign) = plan.todo.iter().fold((0, 0), |(upload, sign), todo| match todo.action {
        Action::Upload => (upload + 1, sign),
        Action::Sign => (upload, sign + 1),
    });
    let mut parts = Vec::new();
    if sign > 0 {
        parts.push(format!("{sign} to be signed"));
    }
    for (word, label) in [
        ("present", "already there"),
        ("differs", "there with other contents"),
        ("upstream", "upstream"),
        ("excluded", "excluded"),
        ("refused", "refused"),
        ("gone", "gone"),
        ("blocked", "blocked"),
        ("failed", "unclear"),
    ] {
        let number = plan.settled.count(word);
        if number > 0 {
            parts.push(format!("{number} {label}"));
        }
    }
    let rest = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    let paths = count(upload, "path");
    if upload + sign == 0 {
        format!("nothing to push to {address}{rest}")
    } else {
        format!("pushing {paths} to {address}{rest}")
    }
}

/// What compression did in a push.
#[derive(Default)]
pub(super) struct Effect {
    from: AtomicU64,
    to: AtomicU64,
    /// The lowest level and the highest.
    levels: Mutex<Option<(i32, i32)>>,
}

impl Effect {
    fn add(&self, from: u64, to: u64, effort: Effort) {
        self.from.fetch_add(from, Ordering::Relaxed);
        self.to.fetch_add(to, Ordering::Relaxed);
        let mut levels = lock(&self.levels);
        let (low, high) = levels.unwrap_or((effort.level, effort.level));
        *levels = Some((low.min(effort.level), high.max(effort.level)));
    }

    /// What is left of a NAR, so far.
    fn percent(&self) -> f64 {
        100.0 * self.to.load(Ordering::Relaxed) as f64 / self.from.load(Ordering::Relaxed).max(1) as f64
    }

    fn levels(&self) -> Option<(i32, i32)> {
        *lock(&self.levels)
    }
}

fn totals(report: &Report, took: Duration, effect: &Effect) -> String {
    let (nar, sent) = report.bytes();
    let level = match effect.levels() {
        None => String::new(),
        Some((low, high)) if low == high => format!(" at level {low}"),
        Some((low, high)) => format!(" at levels {low} to {high}"),
    };
    let mut text =
        format!("{} pushed ({} of NAR, {} sent{level})", report.count("pushed"), size(nar), size(sent));
    for word in ["signed", "failed", "refused", "blocked", "gone"] {
        let count = report.count(word);
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    format!("{text} in {:.1} s", took.as_secs_f64())
}

/// Shows a push to a person: a bar on a terminal, lines elsewhere.
pub(super) struct Human {
    bar: Option<ProgressBar>,
    address: String,
    quiet: bool,
    effect: Effect,
}

impl Human {
    /// `quiet` leaves out what an agent need not say for every push.
    pub(super) fn new(address: String, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none() && !quiet;
        let bar = terminal.then(|| {
            let style = ProgressStyle::with_template(
                "{spinner} {binary_bytes}/{binary_total_bytes} {wide_bar} {binary_bytes_per_sec} {msg} {eta}",
            );
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, address, quiet, effect: Effect::default() }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// The totals of a push.
    pub(super) fn totals(&self, report: &Report, took: Duration) -> String {
        totals(report, took, &self.effect)
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Human {
    fn planned(&self, plan: &Plan) {
        if !self.quiet {
            self.line(&header(plan, &self.address));
        }
        for (path, outcome) in &plan.settled.outcomes {
            if matches!(
                outcome,
                Outcome::Refused(_) | Outcome::Gone | Outcome::Failed(_) | Outcome::Blocked { .. }
            ) {
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
            bar.inc(bytes);
        }
    }

    fn compressed(&self, from: u64, to: u64, effort: Effort) {
        self.effect.add(from, to, effort);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("level {}, to {:.0} %", effort.level, self.effect.percent()));
        }
    }

    fn finished(&self, path: &StorePath, outcome: &Outcome) {
        let name = path.to_basename();
        let detail = match outcome {
            Outcome::Pushed { sent: 0, nar_size } => {
                format!(" ({}, equal contents are there)", size(*nar_size))
            }
            Outcome::Pushed { sent, nar_size } => format!(" ({} as {})", size(*nar_size), size(*sent)),
            other => other.reason().map(|reason| format!(": {reason}")).unwrap_or_default(),
        };
        self.line(&format!("{} {name}{detail}", outcome.word()));
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

/// Tells of a push in JSON lines on stdout, described in `docs/json.md`.
pub(super) struct Json {
    store_dir: StoreDir,
    read: AtomicU64,
    effect: Effect,
}

impl Json {
    pub(super) fn new(store_dir: StoreDir) -> Self {
        Self { store_dir, read: AtomicU64::new(0), effect: Effect::default() }
    }

    fn path(&self, path: &StorePath, outcome: &Outcome) {
        let mut line = json!({
            "type": "path",
            "path": self.store_dir.render_path(path),
            "outcome": outcome.word(),
        });
        if let Some(reason) = outcome.reason() {
            line["reason"] = reason.into();
        }
        match outcome {
            Outcome::Pushed { nar_size, sent } => {
                line["narSize"] = (*nar_size).into();
                line["sent"] = (*sent).into();
            }
            Outcome::Planned { nar_size } => line["narSize"] = (*nar_size).into(),
            _ => {}
        }
        data(&line.to_string());
    }

    /// The last line.
    pub(super) fn totals(&self, report: &Report, dry_run: bool, took: Duration) {
        if dry_run {
            report
                .outcomes
                .iter()
                .filter(|(_, outcome)| matches!(outcome, Outcome::Planned { .. } | Outcome::Signed))
                .for_each(|(path, outcome)| self.path(path, outcome));
        }
        let (nar, sent) = report.bytes();
        let counts: serde_json::Map<_, _> = [
            "pushed", "signed", "planned", "present", "differs", "upstream", "excluded", "refused", "gone",
            "blocked", "failed",
        ]
        .into_iter()
        .map(|word| (word.to_owned(), report.count(word).into()))
        .collect();
        let mut line = json!({
            "type": "summary",
            "counts": counts,
            "narBytes": nar,
            "sentBytes": sent,
            "readBytes": self.read.load(Ordering::Relaxed),
            "seconds": took.as_secs_f64(),
        });
        if let Some((low, high)) = self.effect.levels() {
            line["levels"] = json!([low, high]);
        }
        data(&line.to_string());
    }
}

impl Progress for Json {
    fn planned(&self, plan: &Plan) {
        data(
            &json!({ "type": "plan", "todo": plan.todo.len(), "settled": plan.settled.outcomes.len() })
                .to_string(),
        );
        plan.settled.outcomes.iter().for_each(|(path, outcome)| self.path(path, outcome));
    }

    fn advanced(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    fn compressed(&self, from: u64, to: u64, effort: Effort) {
        self.effect.add(from, to, effort);
    }

    fn finished(&self, path: &StorePath, outcome: &Outcome) {
        self.path(path, outcome);
    }

    fn remark(&self, text: &str) {
        data(&json!({ "type": "remark", "text": text }).to_string());
    }
}
