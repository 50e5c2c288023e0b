//! A writer's session with a bucket: the format is checked, a lease is held while anything may be written.
//!
//! See "Living with other writers" in `ARCHITECTURE.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder_hook::queue::now;
use nix_derivation::nixbase32;
use rand_core::{OsRng, RngCore};
use tokio::task::JoinHandle;

use crate::bucket::{Bucket, Condition, ContentType};
use crate::cache::cache_info::CacheInfo;
use crate::cache::keys;
use crate::cache::marker::{Format, Lease};
use crate::error::{Area, Error, Result};

/// How often the lease is renewed and the format read again.
const RENEWAL: Duration = Duration::from_secs(5 * 60);

/// A running session. [`Session::close`] gives the lease back.
#[derive(Debug)]
pub struct Session {
    bucket: Arc<dyn Bucket>,
    lease_key: String,
    since: u64,
    usable: Arc<AtomicBool>,
    renewal: JoinHandle<()>,
}

impl Session {
    /// Begins a session: reads the format marker and the cache info, takes a lease.
    pub async fn open(bucket: Arc<dyn Bucket>, store_dir: &str) -> Result<Self> {
        check_format(&*bucket).await?;
        check_cache_info(&*bucket, store_dir).await?;
        let mut id = [0; 15];
        OsRng.fill_bytes(&mut id);
        let lease_key = format!("{}{}.json", keys::WRITERS, nixbase32::encode(&id));
        let since = now();
        write_lease(&*bucket, &lease_key, since).await?;
        let usable = Arc::new(AtomicBool::new(true));
        let renewal = tokio::spawn(renew(bucket.clone(), lease_key.clone(), since, usable.clone()));
        Ok(Self { bucket, lease_key, since, usable, renewal })
    }

    /// Whether anything may be written still; asked before every narinfo.
    pub fn check(&self) -> Result<()> {
        if self.usable.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::transient(Area::Bucket, format!("the session with `{}` has ended", self.bucket.address()))
            .because("its lease could not be renewed, or the bucket's format has changed"))
    }

    /// When it began, in seconds since 1970.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Ends the session.
    pub async fn close(self) {
        self.renewal.abort();
        // A lease that stays runs out by itself.
        let _ = self.bucket.delete(&self.lease_key).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Refuses a bucket that has no marker or one of another format.
async fn check_format(bucket: &dyn Bucket) -> Result<()> {
    let unfit = || Error::permanent(Area::Bucket, format!("cannot push to `{}`", bucket.address()));
    match bucket.get(keys::FORMAT).await? {
        None => Err(unfit()
            .because(format!("it has not been made ready: there is no `{}`", keys::FORMAT))
            .hint("`larder init` makes it ready; objects that are there stay")),
        Some(marker) => Format::check(&marker.body).map_err(|reason| {
            unfit().because(reason).hint("push with the newest larder that your machines use")
        }),
    }
}

/// Refuses a bucket for another store directory, which clients would skip.
async fn check_cache_info(bucket: &dyn Bucket, store_dir: &str) -> Result<()> {
    let unfit = || Error::permanent(Area::Bucket, format!("cannot push to `{}`", bucket.address()));
    let Some(object) = bucket.get(keys::CACHE_INFO).await? else {
        return Err(unfit().because("it has no `nix-cache-info`").hint("`larder init` writes one"));
    };
    let info = CacheInfo::parse(&String::from_utf8_lossy(&object.body))
        .map_err(|reason| unfit().because(format!("its `nix-cache-info` is malformed: {reason}")))?;
    if info.store_dir == store_dir {
        return Ok(());
    }
    Err(unfit()
        .because(format!("it is for the store directory `{}`, this store is `{store_dir}`", info.store_dir))
        .hint("a bucket or prefix holds the paths of one store directory; use another"))
}

async fn write_lease(bucket: &dyn Bucket, key: &str, since: u64) -> Result<()> {
    let lease = Lease { since, renewed: now(), version: env!("CARGO_PKG_VERSION").into() };
    bucket.put(key, lease.to_json().into(), ContentType::Json, Condition::None).await.map(drop)
}

async fn renew(bucket: Arc<dyn Bucket>, key: String, since: u64, usable: Arc<AtomicBool>) {
    let mut failures = 0;
    loop {
        tokio::time::sleep(RENEWAL).await;
        let renewed = match check_format(&*bucket).await {
            Ok(()) => write_lease(&*bucket, &key, since).await,
            Err(error) => Err(error),
        };
        failures = if renewed.is_ok() { 0 } else { failures + 1 };
        // A collector waits for far more than two renewals before it takes a lease for abandoned.
        usable.store(failures < 2, Ordering::Release);
    }
}
