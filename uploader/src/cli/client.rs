//! `larder client`: what makes a machine use the cache, and whether it would work.

use std::path::PathBuf;

use nix_narinfo::{NarInfo, TrustedPublicKey};

use super::context::Context;
use super::{init, output, push};
use crate::bucket::PublicReader;
use crate::cache::keys;
use crate::cache::signing::public_keys;
use crate::error::{Area, Error, Result};
use crate::exit::Exit;
use crate::store::StoreLocation;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Try the cache as a client would, and say what is wrong
    #[arg(long)]
    check: bool,
    /// With --check: paths that should be there
    #[arg(requires = "check")]
    paths: Vec<PathBuf>,
    /// The cache's URL; default: the bucket's public one
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The cache's public key; default: those of the configured signing keys
    #[arg(long, value_name = "NAME:BASE64")]
    public_key: Vec<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let url = match &args.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => init::public_url(context, &context.bucket().await?),
    };
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
# A cache that is away must not break builds: build instead (2.8.0 aborts on it in some cases; newer ones do not),
# and do not wait long for a connection.
fallback = true
connect-timeout = 3
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
  narinfo-cache-negative-ttl = 600;
}};"#
    )
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
    let answer = reader.get(&format!("{url}/{}", keys::narinfo(path))).await?;
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
