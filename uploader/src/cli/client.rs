//! `larder client`: configures a machine to use the cache, and checks it.

use std::path::{Path, PathBuf};

use nix_narinfo::TrustedPublicKey;

use super::context::Context;
use super::{names, output};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::client::check::{self, MissingPath};
use crate::client::verdict::Verdict;
use crate::client::{configuration, guard, instructions, probe};
use crate::format::public_key::public_keys;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Check Nix's configuration on this machine, and read the cache as a client does
    #[arg(long)]
    check: bool,
    /// Print the steps that remove the cache from this machine, in an order that breaks no build
    #[arg(long, conflicts_with = "check")]
    remove: bool,
    /// Ask the caches of --url whether they can be reached, and write the verdict into FILE, for --guard. Needs no rights
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "remove", "guard"])]
    probe: Option<PathBuf>,
    /// Write the caches of --url that can be reached into FILE, which nix.conf includes; for machines that travel
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "remove"], requires = "verdict")]
    guard: Option<PathBuf>,
    /// With --guard: the file of --probe. It says which of the same caches can be reached
    #[arg(long, value_name = "FILE", requires = "guard")]
    verdict: Option<PathBuf>,
    /// With --guard: restart this unit when FILE has changed
    #[arg(long, value_name = "UNIT", requires = "guard")]
    restart: Option<String>,
    /// With --check: store paths that the cache should have
    #[arg(requires = "check")]
    paths: Vec<PathBuf>,
    /// The URL of the cache, by default the public URL of the bucket. With --probe and --guard, several are possible
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// The public key of the cache, by default those of the configured signing keys
    #[arg(long, value_name = "NAME:BASE64")]
    public_key: Vec<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    if let Some(file) = &args.probe {
        return run_probe(file, &args.url).await;
    }
    if let (Some(file), Some(verdict)) = (&args.guard, &args.verdict) {
        return run_guard(file, verdict, &args.url, args.restart.as_deref());
    }
    if args.url.len() > 1 {
        return Err(Error::permanent(Area::Usage, "`--url` is given more than once")
            .hint("give one URL; only `--probe` and `--guard` take several"));
    }
    if args.check {
        check_configuration()?;
        // A machine that only substitutes has no configuration of larder.
        if args.url.is_empty() && context.config.bucket().is_err() && args.paths.is_empty() {
            return check_substituters(context).await;
        }
    }
    let (url, bucket_url) = match args.url.first() {
        Some(url) => (url.trim_end_matches('/').to_owned(), None),
        None => {
            let bucket = context.bucket().await?;
            (context.public_url(&*bucket), Some(bucket.public_url()))
        }
    };
    if args.remove {
        show_removal(&url)?;
        return Ok(Exit::Ok);
    }
    let texts = if args.public_key.is_empty() {
        context.keys()?.iter().map(|key| key.public_text()).collect()
    } else {
        args.public_key.clone()
    };
    let keys = public_keys(texts.iter().map(String::as_str))?;
    if args.check {
        return check_cache(&args.paths, context, (&url, bucket_url.as_deref()), &keys).await;
    }
    output::data_lines(&instructions::adding(&url, &texts));
    instructions::remark(&url).iter().for_each(|remark| output::warn(remark));
    Ok(Exit::Ok)
}

async fn run_probe(file: &Path, urls: &[String]) -> Result<Exit> {
    probe::forget(file)?;
    let reasons = probe::probe(urls).await?;
    for (url, reason) in urls.iter().zip(&reasons) {
        if let Some(reason) = reason {
            output::say(&format!("{url} cannot be reached: {reason}"));
        }
    }
    probe::write(file, &Verdict(reasons.iter().map(Option::is_none).collect()))?;
    Ok(Exit::Ok)
}

fn run_guard(file: &Path, verdict: &Path, urls: &[String], unit: Option<&str>) -> Result<Exit> {
    let verdict = Verdict::read(verdict, urls.len())?;
    if guard::write(file, &guard::fragment(urls, &verdict))? {
        let reachable = verdict.0.iter().filter(|reachable| **reachable).count();
        let all = output::count(urls.len(), "cache");
        output::say(&format!("`{}` names {reachable} of {all} now", file.display()));
        if let Some(unit) = unit {
            guard::restart(unit, file)?;
        }
    }
    Ok(Exit::Ok)
}

fn show_removal(url: &str) -> Result<()> {
    for (index, step) in instructions::removing(&configuration::read()?, url).iter().enumerate() {
        output::data(&format!("{}. {step}", index + 1));
    }
    Ok(())
}

fn check_configuration() -> Result<()> {
    let judgement = configuration::judge(&configuration::read()?)?;
    judgement.warnings.iter().for_each(|warning| output::warn(warning));
    output::say(&format!(
        "Nix's configuration: {} and {} are well-formed",
        output::count(judgement.caches, "cache"),
        output::count(judgement.keys, "public key")
    ));
    Ok(())
}

/// Checks all substituters in Nix's configuration.
async fn check_substituters(context: &Context) -> Result<Exit> {
    let (store, reader) = (context.store()?, context.reader()?);
    let mut exit = Exit::Ok;
    for url in configuration::substituters(&configuration::read()?) {
        let base = url.split('?').next().unwrap_or_default().trim_end_matches('/');
        if !base.starts_with("http") && !base.starts_with("file") {
            output::say(&format!(
                "{url}: not checked, because it needs credentials or is not a binary cache"
            ));
            continue;
        }
        match check::cache(&reader, base, store.store_dir.as_str()).await {
            Ok(missing) => show_usable(&url, missing),
            Err(error) => {
                output::warn(&error.to_string());
                exit = Exit::Partial;
            }
        }
    }
    Ok(exit)
}

/// Checks the cache at `url`, and that it has the given paths with signatures by `keys`. If `url` is the URL of the bucket
/// in the configuration, the bucket's own URL is the second.
async fn check_cache(
    paths: &[PathBuf],
    context: &Context,
    (url, bucket_url): (&str, Option<&str>),
    keys: &[TrustedPublicKey],
) -> Result<Exit> {
    let (store, reader) = (context.store()?, context.reader()?);
    let bucket_url = bucket_url.unwrap_or(url);
    show_usable(url, check::own_cache(&reader, url, bucket_url, store.store_dir.as_str()).await?);
    let named = crate::store::paths_of(paths, &store)?;
    names::check(!named.found.is_empty(), &named.bad, None)?;
    for path in named.paths() {
        check::path(&reader, url, &store.store_dir, &path, keys).await?;
        output::say(&format!("{}: signed by a trusted key, and the cache has its NAR", path.to_basename()));
    }
    Ok(if named.bad.is_empty() { Exit::Ok } else { Exit::Partial })
}

fn show_usable(url: &str, missing: MissingPath) {
    if missing == MissingPath::Forbidden {
        output::warn(check::FORBIDDEN_WARNING);
    }
    output::say(&format!("{url}: nix-cache-info is right, and a missing path is absent"));
}
