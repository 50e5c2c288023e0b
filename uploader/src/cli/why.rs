//! `larder why`: why a path stays in the bucket, or since when it may go.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix_derivation::nixbase32;
use serde_json::json;

use super::context::Context;
use super::output;
use super::whole_bucket::{digest, read_store_dir, take_inventory};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::base::span::{parse_span, span_text};
use crate::config::Size;
use crate::format::object_keys::narinfo_hash;
use crate::format::pin::{Generation, PINS, effective};
use crate::survey::read_pins;
use crate::upkeep::inventory::{self, Catalog, PathId};
use crate::upkeep::rules::{AccessLog, Decision, Keeper, Rules, Use, Uses, Verdict, decide};

/// The rules of a decision.
#[derive(Debug, clap::Args)]
pub(super) struct RuleArgs {
    /// What was pushed or downloaded within this time stays, such as 90d
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    keep_within: Option<Duration>,
    /// The most bytes of narinfos and NARs; what was needed least lately goes first
    #[arg(long, value_name = "BYTES", value_parser = Size::parse)]
    max_size: Option<Size>,
    /// Count the downloads in this access log of nginx (combined) or of an S3 server, gzip or not
    #[arg(long, value_name = "FILE")]
    access_log: Vec<PathBuf>,
}

impl RuleArgs {
    /// The rules.
    pub(super) fn rules(&self) -> Rules {
        Rules {
            keep_within: self.keep_within,
            max_size: self.max_size.map(|Size(bytes)| bytes),
            ..Rules::default()
        }
    }

    /// The needs that the logs tell of.
    ///
    /// # Errors
    /// A log cannot be read.
    pub(super) fn uses(&self) -> Result<Uses> {
        let mut uses = Uses::default();
        self.access_log.iter().try_for_each(|path| read_log(path, &mut uses))?;
        Ok(uses)
    }
}

/// Adds the downloads in a log.
fn read_log(path: &Path, uses: &mut Uses) -> Result<()> {
    let cannot = |error| {
        Error::permanent(Area::General, format!("cannot read the log `{}`", path.display())).because(error)
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let log = BufReader::new(File::open(path).map_err(cannot)?);
    let counts = AccessLog::read(log, &mut |download| {
        // A time in the future counts as now.
        let ago = Duration::from_secs(now.saturating_sub(u64::try_from(download.at).unwrap_or(0)));
        match narinfo_hash(&download.key) {
            None => uses.add_nar(&download.key, ago, Use::Downloaded),
            Some(hash) => {
                let digest = nixbase32::decode(hash.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
                digest.into_iter().for_each(|digest| uses.add(digest, ago, Use::Downloaded));
            }
        }
    })
    .map_err(cannot)?;
    if counts.malformed > 0 {
        let lines = output::count(counts.malformed as usize, "line");
        output::warn(&format!("skipped {lines} of `{}` that could not be understood", path.display()));
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A store path, its base name or hash part, or a link such as ./result
    path: PathBuf,
    #[command(flatten)]
    rules: RuleArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Tells why the path stays. The exit code is 3 if the bucket does not have it.
pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let trusted = context.client_keys(&[])?;
    let bucket = context.bucket().await?;
    let store_dir = read_store_dir(&*bucket).await?;
    let wanted = digest(&args.path, &store_dir)?;
    let uses = args.rules.uses()?;
    let (counting, _) = effective(read_pins(&*bucket, PINS).await?);
    let catalog = take_inventory(&*bucket, &inventory::Options { store_dir, trusted }).await?;
    let Some(id) = catalog.find(&wanted) else {
        if args.json {
            output::data(
                &json!({"type": "why", "hashPart": nixbase32::encode(&wanted), "present": false}).to_string(),
            );
        } else {
            output::say(&format!("the bucket does not have `{}`", args.path.display()));
        }
        return Ok(Exit::Partial);
    };
    let rules = args.rules.rules();
    let decision = decide(&catalog, &counting, &rules, &uses);
    match args.json {
        true => print_json(&catalog, &decision, &counting, id),
        false => print(&catalog, &decision, &counting, id),
    }
    Ok(Exit::Ok)
}

/// The word of the keeper in JSON, and the pin.
fn keeper(verdict: Option<Verdict>, pins: &[Generation]) -> (&'static str, Option<&Generation>) {
    match verdict {
        Some(Verdict::Stays(Keeper::Pin(place))) => ("pin", pins.get(place)),
        Some(Verdict::Stays(Keeper::Young)) => ("young", None),
        Some(Verdict::Stays(Keeper::Within)) => ("keep-within", None),
        Some(Verdict::Stays(Keeper::Fits)) => ("max-size", None),
        Some(Verdict::Stays(Keeper::NoRule)) | None => ("no-rule", None),
        Some(Verdict::Old(_)) => ("old", None),
        Some(Verdict::TooLarge) => ("max-size", None),
    }
}

fn use_word(how: Use) -> &'static str {
    match how {
        Use::Pushed => "pushed",
        Use::Asked => "asked",
        Use::Downloaded => "downloaded",
    }
}

fn print_json(catalog: &Catalog, decision: &Decision, pins: &[Generation], id: PathId) {
    let verdict = decision.verdict(id);
    let (reason, pin) = keeper(verdict, pins);
    let through: Vec<_> = decision.chain(id).into_iter().map(|id| catalog.basename(id)).collect();
    let since = if let Some(Verdict::Old(since)) = verdict { Some(since.as_secs()) } else { None };
    let need = decision.need(id);
    let line = json!({
        "type": "why", "path": catalog.basename(id), "present": true, "mayGo": decision.may_go(id), "reason": reason,
        "pin": pin.map(|pin| pin.name.as_str()), "generation": pin.map(|pin| &*pin.id), "through": through,
        "mayGoForSeconds": since, "neededSecondsAgo": need.map(|(ago, _)| ago.as_secs()),
        "neededBy": need.map(|(_, how)| use_word(how)),
    });
    output::data(&line.to_string());
}

fn print(catalog: &Catalog, decision: &Decision, pins: &[Generation], id: PathId) {
    let verdict = decision.verdict(id);
    let name = catalog.basename(id);
    let need = decision.need(id).map_or("at an unknown time".into(), |(ago, how)| {
        format!("{} ago ({})", span_text(ago), use_word(how))
    });
    let text = match verdict {
        Some(Verdict::Stays(keeper)) => {
            let reason = match keeper {
                Keeper::Pin(place) => pins.get(place).map_or_else(String::new, |generation| {
                    format!("generation {} of the pin `{}` keeps it", generation.id, generation.name)
                }),
                Keeper::Young => format!("it was last needed {need}, too lately for any rule"),
                Keeper::Within => format!("it was last needed {need}, within `--keep-within`"),
                Keeper::Fits => format!("it was last needed {need}, and fits into `--max-size`"),
                Keeper::NoRule => "no pin and no rule says what may go".into(),
            };
            format!("`{name}` stays: {reason}")
        }
        Some(Verdict::Old(since)) => {
            format!("`{name}` may go, for {} already: it was last needed {need}", span_text(since))
        }
        Some(Verdict::TooLarge) => {
            format!("`{name}` may go: it was last needed {need}, and does not fit into `--max-size`")
        }
        None => format!("`{name}` was removed meanwhile"),
    };
    output::data(&text);
    let chain = decision.chain(id);
    if chain.len() > 1 {
        output::data("through:");
        chain.into_iter().for_each(|id| output::data(&format!("  {}", catalog.basename(id))));
    }
}
