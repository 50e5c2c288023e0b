//! Shows a push to a program: JSON lines on standard output. `docs/json.md` describes them.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix_derivation::{StoreDir, StorePath};
use serde_json::{Map, Value, json};

use super::compression::{CompressionStatistics, Levels};
use super::terminal::data;
use crate::base::error::Error;
use crate::push::decide::Plan;
use crate::push::progress::Effort;
use crate::push::{Outcome, OutcomeKind, Progress, Report};

/// Renders a push as JSON lines.
pub(in crate::cli) struct Json {
    store_dir: StoreDir,
    read: AtomicU64,
    invalid: AtomicU64,
    compression: CompressionStatistics,
}

impl Json {
    /// A renderer that prints store paths below `store_dir`.
    pub(in crate::cli) fn new(store_dir: StoreDir) -> Self {
        Self {
            store_dir,
            read: AtomicU64::new(0),
            invalid: AtomicU64::new(0),
            compression: CompressionStatistics::default(),
        }
    }

    /// Prints the summary, which is the last line. A dry run prints the paths that it would push or sign before.
    pub(in crate::cli) fn totals(&self, report: &Report, dry_run: bool, took: Duration) {
        if dry_run {
            let planned =
                |outcome: &Outcome| matches!(outcome.kind(), OutcomeKind::Planned | OutcomeKind::Signed);
            let paths = report.outcomes.iter().filter(|(_, outcome)| planned(outcome));
            paths.for_each(|(path, outcome)| self.path(path, outcome));
        }
        data(&self.summary(report, took).to_string());
    }

    /// Prints a name that leads to no store path.
    pub(in crate::cli) fn invalid(&self, name: &Path, error: &Error) {
        self.invalid.fetch_add(1, Ordering::Relaxed);
        let line = json!({
            "type": "invalid",
            "name": name.to_string_lossy(),
            "reason": error.to_string(),
        });
        data(&line.to_string());
    }

    fn summary(&self, report: &Report, took: Duration) -> Value {
        let (nar, sent) = report.bytes();
        let counts: Map<_, _> = OutcomeKind::ALL
            .into_iter()
            .map(|kind| (kind.word().to_owned(), report.count(kind).into()))
            .collect();
        let mut line = json!({
            "type": "summary",
            "counts": counts,
            "invalid": self.invalid.load(Ordering::Relaxed),
            "narBytes": nar,
            "sentBytes": sent,
            "readBytes": self.read.load(Ordering::Relaxed),
            "seconds": took.as_secs_f64(),
        });
        if let Some(Levels { lowest, highest }) = self.compression.levels() {
            line["levels"] = json!([lowest, highest]);
        }
        line
    }

    fn path(&self, path: &StorePath, outcome: &Outcome) {
        data(&path_line(&self.store_dir, path, outcome).to_string());
    }
}

fn path_line(store_dir: &StoreDir, path: &StorePath, outcome: &Outcome) -> Value {
    let mut line = json!({
        "type": "path",
        "path": store_dir.render_path(path),
        "outcome": outcome.kind().word(),
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
    line
}

impl Progress for Json {
    fn planned(&self, plan: &Plan) {
        let settled = &plan.settled.outcomes;
        let line = json!({ "type": "plan", "todo": plan.todo.len(), "settled": settled.len() });
        data(&line.to_string());
        settled.iter().for_each(|(path, outcome)| self.path(path, outcome));
    }

    fn advanced(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    fn compressed(&self, from: u64, to: u64, effort: Effort) {
        self.compression.add(from, to, effort);
    }

    fn finished(&self, path: &StorePath, outcome: &Outcome) {
        self.path(path, outcome);
    }

    fn remark(&self, text: &str) {
        data(&json!({ "type": "remark", "text": text }).to_string());
    }
}
