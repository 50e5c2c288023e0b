//! `larder client`: what makes a machine use the cache, and whether it would work.

mod guard;
mod machine;

use std::path::PathBuf;

use nix_narinfo::{NarInfo, TrustedPublicKey};

use super::context::Context;
use super::{init, output, push};
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::format::object_keys;
use crate::format::public_key::public_keys;
use crate::http::PublicReader;
use crate::store::StoreLocation;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look at this machine's configuration of Nix, try the cache as a client would, and say what is wrong
    #[arg(long)]
    check: bool,
    /// Tell how to take the cache out of this machine, in the order in which nothing breaks
    #[arg(long, conflicts_with = "check")]
    remove: bool,
    /// Write the caches of --url that can be reached into FILE, which nix.conf includes; for machines that travel
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "remove"])]
    guard: Option<PathBuf>,
    /// With --guard: the unit to restart when FILE has changed
    #[arg(long, value_name = "UNIT", requires = "guard")]
    restart: Option<String>,
    /// With --check: paths that should be there
    #[arg(requires = "check")]
    paths: Vec<PathBuf>,
    /// The cache's URL; default: the bucket's public one. With --guard, any number of them
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// The cache's public key; default: those of the configured signing keys
    #[arg(long, value_name = "NAME:BASE64")]
    public_key: Vec<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    if let Some(file) = &args.guard {
        return guard::run(file, &args.url, args.restart.as_deref()).await;
    }
    if args.url.len() > 1 {
        return Err(
            Error::permanent(Area::Usage, "`--url` is given more than once").hint("one cache at a time")
        );
    }
    if args.check {
        machine::check(&machine::read()?)?;
        if args.url.is_empty() && context.config.bucket().is_err() && args.paths.is_empty() {
            // A machine that only substitutes has no configuration of larder's.
            return check_substituters(context).await;
        }
    }
    let url = match args.url.first() {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => init::public_url(context, &context.bucket().await?),
    };
    if args.remove {
        return Ok(machine::removal(&machine::read()?, &url));
    }
    let texts = if args.public_key.is_empty() {
        context.keys()?.iter().map(|key| key.public_text()).collect()
    } else {
        args.public_key.clone()
    };
    let keys = public_keys(texts.iter().map(String::as_str))?;
    if args.check {
        return check(&args, context, &url, &keys).await;
    }
    output::data(&lines(&url, &texts));
    Ok(Exit::Ok)
}

fn lines(url: &str, keys: &[String]) -> String {
    let joined = keys.join(" ");
    let quoted = keys.iter().map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(" ");
    format!(
        r#"# /etc/nix/nix.conf, then restart nix-daemon:
extra-substituters = {url}
extra-trusted-public-keys = {joined}
# A cache that is away must not break builds: build instead, and do not wait long for a connection. Nix 2.8.0 fails
# even so when it knows the cache: there, read it through `larder relay` (docs/clients.md).
fallback = true
connect-timeout = 3
stalled-download-timeout = 15
download-attempts = 3
# A path that was asked for before it was pushed counts as absent for this many seconds (default 3600). Lower means
# that fresh paths are seen sooner, at the price of more questions. To forget at once:
# rm ~/.cache/nix/binary-cache-v*.sqlite* (root's, for the daemon).
narinfo-cache-negative-ttl = 600

# NixOS:
nix.settings = {{
  extra-substituters = [ "{url}" ];
  extra-trusted-public-keys = [ {quoted} ];
  fallback = true;
  connect-timeout = 3;
  stalled-download-timeout = 15;
  download-attempts = 3;
  narinfo-cache-negative-ttl = 600;
}};"#
    )
}

/// Tries all caches that Nix has.
async fn check_substituters(context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let mut exit = Exit::Ok;
    for url in machine::substituters(&machine::read()?) {
        let base = url.split('?').next().unwrap_or_default().trim_end_matches('/');
        if !base.starts_with("http") && !base.starts_with("file") {
            output::say(&format!("{url}: not looked at, it needs credentials or another store"));
            continue;
        }
        match init::read_back(base, context, store.store_dir.as_str()).await {
            Ok(()) => {
                output::say(&format!("{url}: nix-cache-info is right, a missing path is answered as missing"))
            }
            Err(error) => {
                output::warn(&error.to_string());
                exit = Exit::Partial;
            }
        }
    }
    Ok(exit)
}

async fn check(args: &Args, context: &Context, url: &str, keys: &[TrustedPublicKey]) -> Result<Exit> {
    let store = context.store()?;
    init::read_back(url, context, store.store_dir.as_str()).await?;
    output::say(&format!("{url}: nix-cache-info is right, a missing path is answered as missing"));
    let reader = PublicReader::new(context.ca_file().as_deref())?;
    for path in &args.paths {
        let path = push::resolve(&store, path)?;
        check_path(&reader, url, &store, &path, keys).await?;
        output::say(&format!("{}: signed, and its NAR is there", path.to_basename()));
    }
    Ok(Exit::Ok)
}

async fn check_path(
    reader: &PublicReader,
    url: &str,
    store: &StoreLocation,
    path: &crate::store::StorePath,
    trusted: &[TrustedPublicKey],
) -> Result<()> {
    let wrong = |cause: String| {
        let name = path.to_basename();
        Error::permanent(Area::Bucket, format!("a client cannot get `{name}` from `{url}`")).because(cause)
    };
    let answer = reader.get(&format!("{url}/{}", object_keys::narinfo(path))).await?;
    if answer.status != 200 {
        return Err(wrong(format!("its narinfo is answered with status {}", answer.status))
            .hint("`larder status` on the machine that built it tells where it is"));
    }
    let narinfo = NarInfo::parse_in(&store.store_dir, &answer.body)
        .map_err(|error| wrong(format!("its narinfo is malformed: {error}")))?;
    if !narinfo.has_valid_signature(&store.store_dir, trusted) {
        let names: Vec<_> = trusted.iter().map(|key| key.name.as_str()).collect();
        let found: Vec<_> =
            narinfo.signatures().iter().map(|signature| signature.key_name.as_str()).collect();
        return Err(wrong(format!(
            "no signature by `{}` verifies (there are: {})",
            names.join("`, `"),
            found.join(", ")
        ))
        .hint("compare the public key with what `larder key public FILE` prints where it is pushed from"));
    }
    let nar = reader.head(&format!("{url}/{}", narinfo.url())).await?;
    if nar.status != 200 {
        return Err(wrong(format!("its NAR `{}` is answered with status {}", narinfo.url(), nar.status)));
    }
    if let Some(encoding) = nar.header("content-encoding") {
        return Err(wrong(format!(
            "its NAR comes with `Content-Encoding: {encoding}`, which breaks resumed downloads"
        ))
        .hint("switch compression off in the web server or proxy in front of the bucket"));
    }
    Ok(())
}
