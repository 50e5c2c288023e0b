//! `larder status`.

use larder_hook::queue::Parked;
use serde_json::json;

use super::context::Context;
use super::output::{self, count, size};
use crate::agent::{QueueStatus, Summary};
use crate::base::error::Result;
use crate::base::exit::Exit;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let queue = context.queue(&store)?;
    let status = QueueStatus::gather(&queue, &store)?;
    if args.json {
        output::data_lines(&serde_json::to_string_pretty(&to_json(&status)).unwrap_or_default());
    } else {
        print_queue(&status);
        print_parked(&status);
        print_summary(&status.summary, status.at);
        context.pin_warnings()?.iter().for_each(|warning| output::warn(warning));
    }
    Ok(Exit::Ok)
}

/// The status as JSON, see docs/json.md.
fn to_json(status: &QueueStatus) -> serde_json::Value {
    let parked: Vec<_> = status
        .parked
        .iter()
        .map(|parked| {
            json!({
                "path": parked.path.as_str(), "reason": parked.reason, "since": parked.since,
                "attempts": parked.attempts,
                "blockedBy": parked.blocked_by.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    let retries: Vec<_> = status
        .retries
        .iter()
        .map(|attempts| {
            json!({
                "path": attempts.path.as_str(), "attempts": attempts.count, "next": attempts.next,
                "reason": attempts.reason,
            })
        })
        .collect();
    json!({
        "version": 1,
        "agentRunning": status.has_agent,
        "queued": { "jobs": status.jobs, "paths": status.paths, "oldestSeconds": status.oldest_age },
        "waitingForRetry": retries,
        "parked": parked,
        "unreadable": status.unreadable,
        "roots": { "paths": status.rooted_paths, "narBytes": status.rooted_bytes },
        "summary": status.summary,
    })
}

/// Prints a line with its name.
fn line(name: &str, text: &str) {
    output::data(&format!("{:<14} {text}", format!("{name}:")));
}

/// Prints a path, which the lines after it describe.
fn path_line(path: &str) {
    output::data(&format!("  {path}"));
}

fn print_queue(status: &QueueStatus) {
    line("agent", if status.has_agent { "running" } else { "not running" });
    let oldest = status.oldest_age.map(|age| format!(", the oldest for {}", span(age))).unwrap_or_default();
    let (jobs, paths) = (count(status.jobs, "build"), count(status.paths, "path"));
    line("queued", &format!("{jobs} with {paths}{oldest}"));
    line("retrying", &count(status.retries.len(), "path"));
    for attempts in &status.retries {
        let wait = span(attempts.next.saturating_sub(status.at));
        path_line(attempts.path.as_str());
        output::data(&format!("    attempt {} failed: {}; next in {wait}", attempts.count, attempts.reason));
    }
}

fn print_parked(status: &QueueStatus) {
    let (blocked, own): (Vec<&Parked>, Vec<&Parked>) =
        status.parked.iter().partition(|parked| parked.blocked_by.is_some());
    line("parked", &count(own.len(), "path"));
    for parked in own {
        path_line(parked.path.as_str());
        output::data(&format!("    {}", parked.reason));
    }
    line("blocked", &count(blocked.len(), "path"));
    for parked in blocked {
        let by = parked.blocked_by.as_ref().map(ToString::to_string).unwrap_or_default();
        path_line(parked.path.as_str());
        output::data(&format!("    by {by}"));
    }
    if !status.unreadable.is_empty() {
        line("unreadable", &status.unreadable.join(", "));
    }
    status.unreadable_parked.iter().for_each(|failure| output::warn(&failure.to_string()));
    let bytes = status.rooted_bytes.map_or_else(|| "unknown size, the daemon does not answer".into(), size);
    line("kept from GC", &format!("{} ({bytes})", count(status.rooted_paths, "path")));
}

/// Prints the agent's records as they are at the time `now`, in seconds since 1970.
fn print_summary(summary: &Summary, now: u64) {
    let ago = |at: u64| format!("{} ago", span(now.saturating_sub(at)));
    line("excluded", &format!("{} so far", summary.excluded));
    let latest = if summary.gone.is_empty() { "" } else { ", the latest:" };
    line("gone", &format!("{}{latest}", count(summary.gone.len(), "path")));
    for gone in summary.gone.iter().rev().take(5) {
        output::data(&format!("  {} ({})", gone.path, ago(gone.at)));
    }
    if summary.released > 0 {
        line("let go", &format!("{} so far, because of `max-pinned`", count(summary.released, "path")));
    }
    line("pushed", &format!("{} so far, {} sent", count(summary.pushed, "path"), size(summary.sent_bytes)));
    line("last success", &summary.last_success.map_or("never".into(), ago));
    if let Some(error) = &summary.last_error {
        line("last error", error);
    }
}

/// A time span for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
