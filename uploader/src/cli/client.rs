//! `larder client`: configures a machine to use the cache, and checks it.

use std::path::{Path, PathBuf};

use nix_narinfo::TrustedPublicKey;

use super::context::Context;
use super::{names, output};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::client::check::{self, MissingPath};
use crate::client::{configuration, guard, instructions};
use crate::format::public_key::public_keys;
use crate::http::PublicReader;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Check Nix's configuration on this machine, and read the cache as a client does
    #[arg(long)]
    check: bool,
    /// Print the steps that remove the cache from this machine, in an order that breaks no build
    #[arg(long, conflicts_with = "check")]
    remove: bool,
    /// Write the caches of --url that can be reached into FILE, which nix.conf includes; for machines that travel
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "remove"])]
    guard: Option<PathBuf>,
    /// With --guard: restart this unit when FILE has changed
    #[arg(long, value_name = "UNIT", requires = "guard")]
    restart: Option<String>,
    /// With --check: store paths that the cache should have
    #[arg(requires = "check")]
    paths: Vec<PathBuf>,
    /// The URL of the cache, by default the public URL of the bucket. With --guard, several are possible
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// The public key of the cache, by default those of the configured signing keys
    #[arg(long, value_name = "NAME:BASE64")]
    public_key: Vec<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    if let Some(file) = &args.guard {
        return run_guard(file, &args.url, args.restart.as_deref()).await;
    }
    if args.url.len() > 1 {
        return Err(Error::permanent(Area::Usage, "`--url` is given more than once")
            .hint("give one URL; only `--guard` takes several"));
    }
    if args.check {
        check_configuration()?;
        // A machine that only substitutes has no configuration of larder.
        if args.url.is_empty() && context.config.bucket().is_err() && args.paths.is_empty() {
            return check_substituters(context).await;
        }
    }
    let url = match args.url.first() {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => context.public_url(&*context.bucket().await?),
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
        return check_cache(&args.paths, context, &url, &keys).await;
    }
    output::data_lines(&instructions::adding(&url, &texts));
    Ok(Exit::Ok)
}

async fn run_guard(file: &Path, urls: &[String], unit: Option<&str>) -> Result<Exit> {
    let found = guard::probe(urls).await?;
    for (url, reason) in &found.unreachable {
        output::say(&format!("{url} cannot be reached: {reason}"));
    }
    if guard::write(file, &found.fragment())? {
        let reachable = found.reachable.len();
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
    let store = context.store()?;
    let mut exit = Exit::Ok;
    for url in configuration::substituters(&configuration::read()?) {
        let base = url.split('?').next().unwrap_or_default().trim_end_matches('/');
        if !base.starts_with("http") && !base.starts_with("file") {
            output::say(&format!(
                "{url}: not checked, because it needs credentials or is not a binary cache"
            ));
            continue;
        }
        match context.check_cache(base, store.store_dir.as_str()).await {
            Ok(missing) => show_usable(&url, missing),
            Err(error) => {
                output::warn(&error.to_string());
                exit = Exit::Partial;
            }
        }
    }
    Ok(exit)
}

/// Checks the cache at `url`, and that it has the given paths with signatures by `keys`.
async fn check_cache(
    paths: &[PathBuf],
    context: &Context,
    url: &str,
    keys: &[TrustedPublicKey],
) -> Result<Exit> {
    let store = context.store()?;
    let reader = PublicReader::new(context.ca_file().as_deref())?;
    show_usable(url, check::cache(&reader, url, store.store_dir.as_str()).await?);
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
