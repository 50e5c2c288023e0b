//! `larder why`: why a path stays in the bucket, or since when it may go.

use std::path::PathBuf;

use nix_derivation::nixbase32;
use serde_json::json;

use super::context::Context;
use super::output;
use super::rules::RuleArgs;
use super::whole_bucket::{digest, read_store_dir, take_inventory};
use crate::base::error::Result;
use crate::base::exit::Exit;
use crate::base::span::span_text;
use crate::format::pin::{Generation, PINS, effective};
use crate::survey::{read_needs, read_pins};
use crate::upkeep::inventory::{self, Catalog, PathId};
use crate::upkeep::rules::{Decision, Keeper, Use, Verdict, decide};

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
    let trusted = context.client_keys(&[]).unwrap_or_default();
    let bucket = context.bucket().await?;
    let store_dir = read_store_dir(&*bucket).await?;
    let wanted = digest(&args.path, &store_dir)?;
    let mut uses = args.rules.uses()?;
    read_needs(&*bucket, &mut |need| uses.add_need(&need)).await?;
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
    let rules = args.rules.rules(&context.config);
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
    let need = decision.need(id).map_or("was needed at an unknown time".into(), |(ago, how)| {
        let how = match how {
            Use::Pushed => "pushed",
            Use::Asked => "asked for by a push",
            Use::Downloaded => "downloaded",
        };
        format!("was last {how} {} ago", span_text(ago))
    });
    let text = match verdict {
        Some(Verdict::Stays(keeper)) => {
            let reason = match keeper {
                Keeper::Pin(place) => pins.get(place).map_or_else(String::new, |generation| {
                    format!("generation {} of the pin `{}` keeps it", generation.id, generation.name)
                }),
                Keeper::Young => format!("it {need}, too lately for any rule"),
                Keeper::Within => format!("it {need}, within `keep-within`"),
                Keeper::Fits => format!("it {need}, and fits into `max-size`"),
                Keeper::NoRule => format!("no pin and no rule says what may go; it {need}"),
            };
            format!("`{name}` stays: {reason}")
        }
        Some(Verdict::Old(since)) => {
            format!("`{name}` may go, for {} already: it {need}", span_text(since))
        }
        Some(Verdict::TooLarge) => {
            format!("`{name}` may go: it {need}, and does not fit into `max-size`")
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
