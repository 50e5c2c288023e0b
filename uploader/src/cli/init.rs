//! `larder init`: prepares a bucket and checks that clients can read it.

use super::context::Context;
use super::output;
use crate::base::error::Result;
use crate::base::exit::Exit;
use crate::bucket::Bucket;
use crate::client::check::{self, MissingPath};
use crate::client::instructions;
use crate::format::cache_info::CacheInfo;
use crate::format::object_keys;
use crate::init::{self, CacheInfoState};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Create the bucket if it does not exist
    #[arg(long)]
    create: bool,
    /// Leave the bucket closed to readers without credentials
    #[arg(long)]
    private: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let bucket = context.bucket().await?;
    if init::ensure_bucket(&*bucket, args.create).await? {
        output::say(&format!("created {}", bucket.address()));
    }
    init::check_rights(&*bucket).await?;
    let priority = context.config.priority();
    let info = CacheInfo::new(&store.store_dir, priority);
    show_cache_info(init::write_cache_info(&*bucket, &info).await?);
    if init::write_marker(&*bucket).await? {
        output::say(&format!("wrote {}", object_keys::FORMAT));
    }
    if args.private {
        output::say("the bucket stays closed to readers without credentials, because of `--private`");
        return Ok(Exit::Ok);
    }
    match init::allow_anonymous_reading(&*bucket).await {
        Ok(()) => output::say("everybody may read the bucket"),
        Err(reason) => output::warn(&format!("cannot let everybody read the bucket: {reason}")),
    }
    read_back(context, &*bucket, store.store_dir.as_str()).await
}

fn show_cache_info(state: CacheInfoState) {
    match state {
        CacheInfoState::Found { priority: Some(priority) } => output::say(&format!(
            "the bucket has a nix-cache-info (priority {priority}), which stays as it is"
        )),
        CacheInfoState::Found { priority: None } => output::warn(
            "the bucket's nix-cache-info has no priority, so clients ask this cache before all others; it stays as it is",
        ),
        CacheInfoState::Written => output::say("wrote nix-cache-info"),
        CacheInfoState::WrittenByOther => {}
    }
}

/// Reads the cache as a client does, and says whether that works.
async fn read_back(context: &Context, bucket: &dyn Bucket, store_dir: &str) -> Result<Exit> {
    let url = context.public_url(bucket);
    let checked = match context.reader() {
        Ok(reader) => check::own_cache(&reader, &url, &bucket.public_url(), store_dir).await,
        Err(error) => Err(error),
    };
    match checked {
        Ok(missing) => {
            if missing == MissingPath::Forbidden {
                output::warn(check::FORBIDDEN_WARNING);
            }
            output::say(&format!(
                "the bucket is ready: clients read {url}; `larder client` prints their configuration"
            ));
            instructions::remark(&url).iter().for_each(|remark| output::warn(remark));
            Ok(Exit::Ok)
        }
        Err(error) => {
            output::error(&error);
            output::say("larder can push into the bucket, but clients cannot read it yet");
            Ok(Exit::Partial)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket;
    use crate::config::{Config, Flag};

    #[tokio::test]
    async fn a_file_of_certificates_that_cannot_be_used_keeps_clients_from_reading() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().display());
        let flags = [Flag::set("ca-file", dir.path().join("absent.pem").display().to_string())];
        let context = Context { config: Config::load(&|_| None, &flags).unwrap() };
        let bucket = bucket::open(&url, &bucket::Options::default()).await.unwrap();
        assert_eq!(read_back(&context, &*bucket, "/nix/store").await.unwrap(), Exit::Partial);
    }
}
