//! `larder collect`: removes from the bucket what nothing keeps.

use std::time::Duration;

use serde_json::json;

use super::context::Context;
use super::output::{self, Collections};
use super::rules::RuleArgs;
use super::whole_bucket::{read_store_dir, records};
use crate::base::error::{Error, Result};
use crate::base::exit::Exit;
use crate::base::span::{parse_span, span_text};
use crate::session::{CollectorSession, Session};
use crate::upkeep::collect::{Collector, Inputs, Marking, NAR_GRACE, Undone, mark, past, undo};
use crate::upkeep::inventory;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    rules: RuleArgs,
    /// Collect. By default, larder only shows what may go
    #[arg(long, short = 'y')]
    yes: bool,
    /// Bring back what a collection has taken; without an id, list the collections that can be undone
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "", conflicts_with = "yes")]
    undo: Option<String>,
    /// Delete a NAR when no narinfo has named it for this long. Clients remember narinfos for 30 days
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    nar_grace: Option<Duration>,
    /// What was needed within this time stays in any case. Tests collect sooner than after a day
    #[arg(long, value_name = "TIME", value_parser = parse_span, hide = true)]
    grace: Option<Duration>,
    /// Collect although other programs than larder have written within the last day. None of them may run
    #[arg(long)]
    foreign_writers: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// Collects, shows what may go, or undoes.
pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    match &args.undo {
        Some(id) if id.is_empty() => list_past(&args, context).await,
        Some(id) => bring_back(&args, context, id).await,
        None => collect(&args, context).await,
    }
}

async fn inputs(args: &Args, context: &Context, bucket: &dyn crate::bucket::Bucket) -> Result<Inputs> {
    let trusted = context.client_keys(&[]).unwrap_or_default();
    let store_dir = read_store_dir(bucket).await?;
    let mut rules = args.rules.rules(&context.config);
    rules.grace = args.grace.unwrap_or(rules.grace);
    Ok(Inputs {
        inventory: inventory::Options { store_dir, trusted },
        rules,
        uses: args.rules.uses()?,
        nar_grace: args.nar_grace.unwrap_or(NAR_GRACE),
        foreign_writers: args.foreign_writers,
        without_rules: false,
        refuse_pinned: false,
    })
}

async fn collect(args: &Args, context: &Context) -> Result<Exit> {
    let bucket = context.bucket().await?;
    let inputs = inputs(args, context, &*bucket).await?;
    let shown = Collections::new(args.json);
    let mut records = records(&bucket.address(), &inputs.inventory);
    if !args.yes {
        let marking = take_marking(&*bucket, &inputs, &mut *records).await?;
        shown.plan(&marking);
        if !args.json && !marking.garbage.is_empty() {
            output::say("`--yes` collects");
        }
        return Ok(Exit::Ok);
    }
    let keys = context.keys()?;
    let store_dir = inputs.inventory.store_dir.as_str();
    let waits = |others| shown.waits(others);
    let stop = async { _ = tokio::signal::ctrl_c().await };
    let claimed = CollectorSession::claim(bucket.clone(), store_dir, &keys, &waits, stop).await?;
    let Some(session) = claimed else { return Ok(Exit::Interrupted) };
    let work = async {
        let news = |news| shown.news(news);
        let collector = Collector { session: &session, inputs: &inputs, news: &news };
        collector.take_over().await?;
        let marking = take_marking(&*bucket, &inputs, &mut *records).await?;
        shown.plan(&marking);
        let ended = collector.collect(&marking, &by(), &mut *records).await?;
        Ok::<_, Error>((ended, marking.garbage.is_partial))
    };
    let ended = tokio::select! {
        ended = work => Some(ended),
        _ = tokio::signal::ctrl_c() => None,
    };
    session.close().await;
    let Some(ended) = ended else {
        output::say(
            "interrupted; the next collection ends what has begun, and writers that need its paths wait until then",
        );
        return Ok(Exit::Interrupted);
    };
    let (ended, is_partial) = ended?;
    shown.ended(&ended, is_partial);
    match ended.error {
        Some(error) => Err(error),
        None => Ok(Exit::Ok),
    }
}

/// Marks, with a progress bar.
pub(super) async fn take_marking(
    bucket: &dyn crate::bucket::Bucket,
    inputs: &Inputs,
    records: &mut dyn inventory::Records,
) -> Result<Marking> {
    let bar = output::Steps::new("narinfos");
    let progress = |done, total| bar.set(done, total);
    let marking = mark(bucket, inputs, records, &progress).await;
    bar.remove();
    marking
}

/// The machine that asks, for people.
pub(super) fn by() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

async fn list_past(args: &Args, context: &Context) -> Result<Exit> {
    let bucket = context.bucket().await?;
    let past = past(&*bucket).await?;
    for one in &past {
        let (paths, age) = (one.summary.paths, one.age.map(|age| age.as_secs()));
        if args.json {
            let line = json!({ "type": "collection", "id": one.id, "paths": paths, "ageSeconds": age, "by": one.summary.by });
            output::data(&line.to_string());
        } else {
            let age = one.age.map_or("at an unknown time".into(), |age| format!("{} ago", span_text(age)));
            let paths = output::count(paths, "path");
            output::data(&format!("{}: {paths}, {age}, {}", one.id, one.summary.by));
        }
    }
    if past.is_empty() && !args.json {
        output::say("no collection can be undone");
    }
    Ok(Exit::Ok)
}

async fn bring_back(args: &Args, context: &Context, id: &str) -> Result<Exit> {
    let (keys, trusted) = (context.keys()?, context.client_keys(&[])?);
    let bucket = context.bucket().await?;
    let store_dir = read_store_dir(&*bucket).await?;
    let session = Session::open(bucket.clone(), store_dir.as_str(), &keys, &trusted).await?;
    let (mut back, mut present, mut lost) = (0, 0, 0);
    let undone = undo(&session, id, |digest, undone| {
        let (word, reason) = match undone {
            Undone::Back => ("back", None),
            Undone::Present => ("present", None),
            Undone::Lost(reason) => ("lost", Some(reason)),
        };
        *match undone {
            Undone::Back => &mut back,
            Undone::Present => &mut present,
            Undone::Lost(_) => &mut lost,
        } += 1;
        let hash = nix_derivation::nixbase32::encode(digest);
        match (args.json, reason) {
            (true, _) => output::data(
                &json!({ "type": "path", "hashPart": hash, "outcome": word, "reason": reason }).to_string(),
            ),
            (false, Some(reason)) => output::warn(&format!("`{hash}` cannot be brought back: {reason}")),
            (false, None) => {}
        }
    })
    .await;
    session.close().await;
    undone?;
    if args.json {
        output::data(
            &json!({ "type": "summary", "back": back, "present": present, "lost": lost }).to_string(),
        );
    } else {
        output::say(&format!(
            "brought back {}; {present} were there already, and {lost} are lost",
            output::count(back, "path")
        ));
        output::say("pin what must stay: by the same rules, the next collection takes it again in a day");
    }
    Ok(if lost > 0 { Exit::Partial } else { Exit::Ok })
}
