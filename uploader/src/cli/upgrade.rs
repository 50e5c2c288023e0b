//! `larder upgrade`: brings a bucket to the newest format.

use std::time::Duration;

use super::context::Context;
use super::output;
use super::whole_bucket::read_store_dir;
use crate::base::error::Result;
use crate::base::exit::Exit;
use crate::init::{Upgrade, upgrade_marker};
use crate::session::CollectorSession;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not wait until the writers of the older format have stopped
    #[arg(long)]
    no_wait: bool,
}

/// Writes the marker of the newest format, and waits until no writer of an older format can be alive.
pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let keys = context.keys()?;
    let bucket = context.bucket().await?;
    let store_dir = read_store_dir(&*bucket).await?;
    match upgrade_marker(&*bucket).await? {
        Upgrade::Done { from, to } => output::say(&format!(
            "the bucket has format {to} now, instead of {from}. Older versions of larder stop writing within five minutes, keep \
             their queues, and push again when they are updated"
        )),
        Upgrade::Newest(version) => output::say(&format!("the bucket has the newest format, {version}")),
    }
    if args.no_wait {
        return Ok(Exit::Ok);
    }
    let session = CollectorSession::open(bucket, store_dir.as_str(), &keys).await?;
    let waited = tokio::select! {
        waited = wait(&session) => Some(waited),
        _ = tokio::signal::ctrl_c() => None,
    };
    session.close().await;
    match waited {
        Some(waited) => waited.map(|()| Exit::Ok),
        None => {
            output::say("interrupted; collections wait for the writers of the older format by themselves");
            Ok(Exit::Interrupted)
        }
    }
}

async fn wait(session: &CollectorSession) -> Result<()> {
    let mut before = usize::MAX;
    loop {
        let leases = session.leases().await?;
        let old = leases.iter().filter(|seen| !seen.knows_collections && seen.is_alive()).count();
        if old == 0 {
            output::say("no writer of an older format is alive");
            return Ok(());
        }
        if old != before {
            output::say(&format!("waiting for {}", output::count(old, "writer of an older format")));
            before = old;
        }
        tokio::time::sleep((session.limits().renewal / 30).max(Duration::from_millis(20))).await;
    }
}
