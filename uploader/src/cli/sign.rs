//! `larder sign`: adds and drops signatures of the paths in the bucket.

use std::path::PathBuf;

use nix_derivation::store_path::StoreDir;
use serde_json::json;

use super::context::Context;
use super::output;
use super::whole_bucket::{digest, read_store_dir, take_inventory};
use crate::base::error::{Error, Result};
use crate::base::exit::Exit;
use crate::format::resign::Resigning;
use crate::format::signature::SecretKey;
use crate::session::Session;
use crate::upkeep::inventory::{self, Catalog, PathId};
use crate::upkeep::sign::{Signed, Signer};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these store paths: paths, their base names or hash parts, or links such as ./result. By default, all
    paths: Vec<PathBuf>,
    /// Take the signatures of the key with this name away. May be given several times
    #[arg(long, value_name = "NAME")]
    drop: Vec<String>,
    /// Also sign what this public key has signed, NAME:BASE64, besides the keys of the configuration
    #[arg(long, value_name = "KEY")]
    trusted_by: Vec<String>,
    /// Show what would be changed, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// The numbers of narinfos.
#[derive(Debug, Default)]
struct Totals {
    added: usize,
    dropped: usize,
    left: usize,
    errors: Vec<Error>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let keys = context.keys()?;
    let mut trusted = context.client_keys(&[])?;
    trusted.extend(context.public_keys(&args.trusted_by)?);
    // The name of a key is the part before the colon. A whole public key is accepted, too.
    let drop: Vec<_> =
        args.drop.iter().map(|key| key.split_once(':').map_or(&**key, |(name, _)| name).to_owned()).collect();
    check_drop(&keys, &drop)?;
    let bucket = context.bucket().await?;
    let store_dir = read_store_dir(&*bucket).await?;
    let options = inventory::Options { store_dir: store_dir.clone(), trusted: trusted.clone() };
    let catalog = take_inventory(&*bucket, &options).await?;
    let session = Session::open(bucket, store_dir.as_str(), &keys, &trusted).await?;
    let resigning = Resigning { store_dir: &store_dir, keys: &keys, trusted: &trusted, drop: &drop };
    let signer = Signer { session: &session, resigning, dry_run: args.dry_run };
    let mut wanted = signer.wanting(&catalog);
    if !args.paths.is_empty() {
        let named = args.paths.iter().map(|path| digest(path, &store_dir)).collect::<Result<Vec<_>>>()?;
        wanted.retain(|id| named.contains(catalog.digest(*id)));
    }
    let mut totals = Totals::default();
    let bar = output::Steps::new("narinfos");
    let (count, mut done) = (wanted.len(), 0);
    signer
        .sign(&catalog, wanted, |id, signed| {
            done += 1;
            bar.set(done, count);
            totals.take(&args, &catalog, &store_dir, id, signed);
        })
        .await;
    bar.remove();
    session.close().await;
    totals.end(&args, catalog.paths())
}

/// Refuses to drop the signatures of a key that signs.
fn check_drop(keys: &[SecretKey], drop: &[String]) -> Result<()> {
    match keys.iter().find(|key| drop.iter().any(|name| name == key.name())) {
        None => Ok(()),
        Some(key) => Err(Error::permanent(
            crate::base::error::Area::Usage,
            format!("`{}` cannot be dropped, because it is a signing key of the configuration", key.name()),
        )
        .hint("take its file out of `signing-key-files` on all machines that push, and then drop it")),
    }
}

impl Totals {
    fn take(&mut self, args: &Args, catalog: &Catalog, store_dir: &StoreDir, id: PathId, signed: Signed) {
        let path = format!("{}/{}", store_dir.as_str(), catalog.basename(id));
        match signed {
            Signed::Done { added, dropped } => {
                self.added += usize::from(!added.is_empty());
                self.dropped += usize::from(!dropped.is_empty());
                if args.json && !(added.is_empty() && dropped.is_empty()) {
                    let line = json!({ "type": "path", "path": path, "added": added, "dropped": dropped });
                    output::data(&line.to_string());
                }
            }
            Signed::Left(reason) => {
                self.left += 1;
                match args.json {
                    true => {
                        output::data(&json!({ "type": "path", "path": path, "left": reason }).to_string());
                    }
                    false => output::data(&format!("{path}: left, because {reason}")),
                }
            }
            Signed::Gone => {}
            Signed::Failed(error) => self.errors.push(error),
        }
    }

    fn end(self, args: &Args, paths: usize) -> Result<Exit> {
        let Self { added, dropped, left, errors } = self;
        if args.json {
            let line = json!({
                "type": "summary", "paths": paths, "signed": added, "dropped": dropped, "left": left,
                "failed": errors.len(),
            });
            output::data(&line.to_string());
        } else {
            let would = if args.dry_run { "would be " } else { "" };
            output::say(&format!(
                "{}: {would}signed {added}, signatures {would}dropped from {dropped}, left {left}",
                output::count(paths, "path")
            ));
        }
        let count = errors.len();
        if let Some(error) = errors.into_iter().next() {
            let text = format!("cannot sign {}", output::count(count, "path"));
            return Err(Error::new(error.area(), error.retry(), text)
                .because(error)
                .hint("sign again: narinfos that have the signatures are not written again"));
        }
        Ok(if left > 0 { Exit::Partial } else { Exit::Ok })
    }
}
