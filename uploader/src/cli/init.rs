//! `larder init`: makes a bucket ready and proves it.

use std::sync::Arc;

use super::context::Context;
use super::output;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::bucket::{AnonymousRead, Bucket, Condition, ContentType, Depth, Put};
use crate::config::config_keys::PUBLIC_URL;
use crate::format::cache_info::CacheInfo;
use crate::format::marker::Format;
use crate::format::object_keys;
use crate::http::PublicReader;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Create the bucket if it does not exist
    #[arg(long)]
    create: bool,
    /// Leave the bucket closed to readers without credentials
    #[arg(long)]
    private: bool,
}

/// Key of an object that no bucket has: what a client's question for an unknown path looks like.
const MISSING: &str = "00000000000000000000000000000000.narinfo";

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let store = context.store()?;
    let bucket = context.bucket().await?;
    let address = bucket.address();
    if !bucket.exists().await? {
        if !args.create {
            return Err(Error::permanent(Area::Bucket, format!("there is no bucket at `{address}`"))
                .hint("check its name and endpoint, or let `larder init --create` make it"));
        }
        bucket.create().await?;
        output::say(&format!("created {address}"));
    }
    probe_rights(&*bucket).await?;
    let fresh = CacheInfo::new(&store.store_dir, context.config.priority());
    cache_info(&*bucket, &fresh).await?;
    marker(&*bucket).await?;
    if args.private {
        output::say("left closed to readers without credentials, as asked");
        return Ok(Exit::Ok);
    }
    match bucket.allow_anonymous_read().await {
        Ok(AnonymousRead::Granted) => output::say("anonymous reading is allowed"),
        Ok(AnonymousRead::Unsupported(reason)) => {
            output::warn(&format!("anonymous reading could not be set up: {reason}"));
        }
        // A writer need not be allowed to change policies; what counts is what a reader finds below.
        Err(error) => output::warn(&format!("anonymous reading could not be set up: {error}")),
    }
    let base = public_url(context, &bucket);
    match read_back(&base, context, store.store_dir.as_str()).await {
        Ok(()) => {
            output::say(&format!("ready: clients read {base}; `larder client` prints their configuration"));
            Ok(Exit::Ok)
        }
        Err(error) => {
            output::error(&error);
            output::say("larder can push into the bucket; clients cannot read it yet");
            Ok(Exit::Partial)
        }
    }
}

/// Where clients read.
pub(super) fn public_url(context: &Context, bucket: &Arc<dyn Bucket>) -> String {
    let url = context.config.get(PUBLIC_URL).unwrap_or_else(|| bucket.public_url());
    url.trim_end_matches('/').to_owned()
}

/// Key of an object that is written, and removed again, to find something out.
fn probe_key() -> String {
    format!("{}probe-{:08x}", object_keys::WRITERS, std::process::id())
}

/// Finds out whether these credentials may do what a push needs.
async fn probe_rights(bucket: &dyn Bucket) -> Result<()> {
    bucket.list("", None, Depth::OneLevel).await.map_err(|error| lacking(bucket, "list", error))?;
    // A writer that may not list gets 403 for a missing key, which says nothing about presence.
    bucket.get(MISSING).await.map_err(|error| lacking(bucket, "ask for a missing object in", error))?;
    let probe = probe_key();
    let put = bucket.put(&probe, "probe\n".into(), ContentType::Text, Condition::None).await;
    put.map_err(|error| lacking(bucket, "write to", error))?;
    bucket.delete(&probe).await.map_err(|error| lacking(bucket, "delete in", error))
}

fn lacking(bucket: &dyn Bucket, what: &str, error: Error) -> Error {
    if error.area() != Area::Bucket || error.retry() != crate::base::error::Retry::Permanent {
        return error;
    }
    let hint = error.hint_text().map_or_else(
        || "a writer needs s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on its objects".to_owned(),
        str::to_owned,
    );
    Error::permanent(Area::Bucket, format!("these credentials cannot {what} `{}`", bucket.address()))
        .because(error)
        .hint(hint)
}

/// Writes `nix-cache-info` where there is none; one that stands stays.
async fn cache_info(bucket: &dyn Bucket, fresh: &CacheInfo) -> Result<()> {
    if let Some(object) = bucket.get(object_keys::CACHE_INFO).await? {
        let unfit = |reason: String| {
            Error::permanent(Area::Bucket, format!("cannot use `{}`", bucket.address())).because(reason)
        };
        let standing = CacheInfo::parse(&String::from_utf8_lossy(&object.body)).map_err(|reason| {
            unfit(format!("its nix-cache-info is malformed: {reason}")).hint("correct or delete that object")
        })?;
        if standing.store_dir != fresh.store_dir {
            return Err(unfit(format!(
                "its nix-cache-info is for the store directory `{}`, this store is `{}`",
                standing.store_dir, fresh.store_dir
            ))
            .hint("use another bucket, or a prefix of its own: s3://bucket/prefix"));
        }
        match standing.priority {
            Some(priority) => {
                output::say(&format!("nix-cache-info is there (priority {priority}) and stays"))
            }
            None => output::warn(
                "the nix-cache-info that is there has no priority, so clients ask this cache before all others; it stays as it is",
            ),
        }
        return Ok(());
    }
    let put = bucket
        .put(object_keys::CACHE_INFO, fresh.to_text().into(), ContentType::CacheInfo, Condition::IfAbsent)
        .await?;
    if put == Put::Written {
        output::say("wrote nix-cache-info");
    }
    Ok(())
}

async fn marker(bucket: &dyn Bucket) -> Result<()> {
    if let Some(object) = bucket.get(object_keys::FORMAT).await? {
        return Format::check(&object.body).map(drop).map_err(|reason| {
            Error::permanent(Area::Bucket, format!("cannot use `{}`", bucket.address())).because(reason)
        });
    }
    bucket
        .put(
            object_keys::FORMAT,
            Format::current(has_conditional_writes(bucket).await?).to_json().into(),
            ContentType::Json,
            Condition::IfAbsent,
        )
        .await?;
    output::say(&format!("wrote {}", object_keys::FORMAT));
    Ok(())
}

/// Whether the server refuses a write whose condition does not hold; some ignore the condition.
async fn has_conditional_writes(bucket: &dyn Bucket) -> Result<bool> {
    let probe = probe_key();
    bucket.put(&probe, "first\n".into(), ContentType::Text, Condition::None).await?;
    let put = bucket.put(&probe, "second\n".into(), ContentType::Text, Condition::IfAbsent).await;
    bucket.delete(&probe).await?;
    Ok(matches!(put, Ok(Put::Refused)))
}

/// Reads the cache as a client without credentials does.
pub(super) async fn read_back(base: &str, context: &Context, store_dir: &str) -> Result<()> {
    let reader = PublicReader::new(context.ca_file().as_deref())?;
    let unread =
        |cause: String| Error::permanent(Area::Bucket, format!("clients cannot use `{base}`")).because(cause);
    let answer = reader.get(&format!("{base}/{}", object_keys::CACHE_INFO)).await?;
    if answer.status != 200 {
        return Err(unread(format!("nix-cache-info is answered with status {}", answer.status)).hint(
            "let everybody read the bucket: a bucket policy with s3:GetObject where the server has policies; on Garage \
             `garage bucket website --allow BUCKET` and its website endpoint as `public-url`; on SeaweedFS the identity \
             `anonymous` with `Read:BUCKET`. For readers with credentials, `larder init --private`",
        ));
    }
    let info = CacheInfo::parse(&String::from_utf8_lossy(&answer.body)).map_err(|reason| {
        unread(format!("its nix-cache-info is malformed: {reason}")).hint("is that the right `public-url`?")
    })?;
    if info.store_dir != store_dir {
        return Err(unread(format!("it is for the store directory `{}`", info.store_dir)));
    }
    match reader.get(&format!("{base}/{MISSING}")).await?.status {
        404 | 410 => Ok(()),
        // Clients take it for absent; so the cache works, but a wrong policy would look the same.
        403 => {
            output::warn(
                "a missing path is answered with 403; grant s3:ListBucket to everybody to get the plain 404",
            );
            Ok(())
        }
        status => Err(unread(format!("a missing path is answered with status {status}; clients expect 404"))),
    }
}
