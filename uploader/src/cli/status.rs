//! `larder status`.

use larder_hook::queue::{Entry, Place, Queue};
use larder_hook::time::now;
use serde_json::json;

use super::context::Context;
use super::output::{self, count, size};
use crate::agent::{Summary, from_queued, in_queue};
use crate::base::error::Result;
use crate::base::exit::Exit;
use crate::store::{Daemon, StoreLocation};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is waiting.
#[derive(Default)]
struct Waiting {
    jobs: usize,
    paths: usize,
    oldest: Option<u64>,
    retries: Vec<larder_hook::queue::Attempts>,
    unreadable: Vec<String>,
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let queue = context.queue(&store)?;
    let waiting = waiting(&queue)?;
    let (parked, bad) = queue.parked().map_err(in_queue)?;
    let summary = Summary::read(queue.layout());
    let running = queue.has_agent().map_err(in_queue)?;
    let (roots, held) = held(&queue, &store)?;
    let now = now();
    let age = waiting.oldest.map(|oldest| now.saturating_sub(oldest));
    if args.json {
        let parked: Vec<_> = parked
            .iter()
            .map(|one| {
                json!({
                    "path": one.path.as_str(), "reason": one.reason, "since": one.since, "attempts": one.attempts,
                    "blockedBy": one.blocked_by.as_ref().map(ToString::to_string),
                })
            })
            .collect();
        let retries: Vec<_> = waiting
            .retries
            .iter()
            .map(|one| json!({ "path": one.path.as_str(), "attempts": one.count, "next": one.next, "reason": one.reason }))
            .collect();
        let status = json!({
            "version": 1,
            "agentRunning": running,
            "queued": { "jobs": waiting.jobs, "paths": waiting.paths, "oldestSeconds": age },
            "waitingForRetry": retries,
            "parked": parked,
            "unreadable": waiting.unreadable,
            "roots": { "paths": roots, "narBytes": held },
            "summary": summary,
        });
        output::data(&serde_json::to_string_pretty(&status).unwrap_or_default());
        return Ok(Exit::Ok);
    }
    let line = |name: &str, text: String| output::data(&format!("{:<14} {text}", format!("{name}:")));
    line("agent", if running { "running".into() } else { "not running".into() });
    let oldest = age.map(|age| format!(", the oldest for {}", span(age))).unwrap_or_default();
    line("queued", format!("{} with {}{oldest}", count(waiting.jobs, "build"), count(waiting.paths, "path")));
    line("retrying", count(waiting.retries.len(), "path"));
    for one in &waiting.retries {
        let wait = span(one.next.saturating_sub(now));
        output::data(&format!(
            "  {}\n    attempt {} failed: {}; next in {wait}",
            one.path, one.count, one.reason
        ));
    }
    let (blocked, own): (Vec<_>, Vec<_>) = parked.iter().partition(|one| one.blocked_by.is_some());
    line("parked", count(own.len(), "path"));
    for one in own {
        output::data(&format!("  {}\n    {}", one.path, one.reason));
    }
    line("blocked", count(blocked.len(), "path"));
    for one in blocked {
        let by = one.blocked_by.as_ref().map(ToString::to_string).unwrap_or_default();
        output::data(&format!("  {}\n    by {by}", one.path));
    }
    if !waiting.unreadable.is_empty() {
        line("unreadable", waiting.unreadable.join(", "));
    }
    bad.iter().for_each(|failure| output::warn(&failure.to_string()));
    let held = held.map_or_else(|| "unknown size, the store cannot be asked".into(), size);
    line("kept from GC", format!("{} ({held})", count(roots, "path")));
    line("excluded", format!("{} so far", summary.excluded));
    line(
        "gone",
        format!("{} paths{}", summary.gone.len(), if summary.gone.is_empty() { "" } else { ", lately:" }),
    );
    for gone in summary.gone.iter().rev().take(5) {
        output::data(&format!("  {} ({} ago)", gone.path, span(now.saturating_sub(gone.at))));
    }
    line("pushed", format!("{} paths so far, {} sent", summary.pushed, size(summary.sent_bytes)));
    line(
        "last success",
        summary.last_success.map_or("never".into(), |at| format!("{} ago", span(now.saturating_sub(at)))),
    );
    if let Some(error) = summary.last_error {
        line("last error", error);
    }
    Ok(Exit::Ok)
}

fn waiting(queue: &Queue) -> Result<Waiting> {
    let mut waiting = Waiting::default();
    for place in [Place::Incoming, Place::Work] {
        for id in queue.list(place).map_err(in_queue)? {
            match queue.read(place, &id) {
                Ok(Entry::Job(job, _)) => {
                    waiting.jobs += 1;
                    waiting.paths += job.paths.len();
                    waiting.oldest =
                        Some(waiting.oldest.map_or(job.created, |oldest| oldest.min(job.created)));
                    waiting.retries.extend(job.attempts);
                }
                Ok(Entry::Gone) => {}
                Ok(Entry::Bad(bad)) => waiting.unreadable.push(format!("{id} ({bad})")),
                Err(error) => waiting.unreadable.push(error.to_string()),
            }
        }
    }
    Ok(waiting)
}

/// How many paths the roots hold, and the size of their NARs, where the store can be asked.
fn held(queue: &Queue, store: &StoreLocation) -> Result<(usize, Option<u64>)> {
    let mut paths: Vec<_> = queue
        .rooted()
        .map_err(in_queue)?
        .into_values()
        .flatten()
        .filter_map(|path| from_queued(store, &path))
        .collect();
    paths.sort();
    paths.dedup();
    if paths.is_empty() {
        return Ok((0, Some(0)));
    }
    let infos = Daemon::connect(store).and_then(|mut daemon| daemon.path_infos(&paths));
    Ok((paths.len(), infos.ok().map(|infos| infos.into_iter().flatten().map(|info| info.nar_size).sum())))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
