//! A writer's session with a bucket: the format is checked, a lease is held while anything may be written.
//!
//! See "Living with other writers" in `ARCHITECTURE.md`.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use larder_hook::fault::{self, point};
use larder_hook::queue::now;
use tokio::task::JoinHandle;

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result, Retry};
use crate::base::lock::lock;
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::cache_info::CacheInfo;
use crate::format::marker::{Format, Lease};
use crate::format::object_keys;

/// How often the lease is renewed and the format read again.
const RENEWAL: Duration = Duration::from_secs(5 * 60);
/// When renewing failed, it is tried again after this.
const RENEWAL_AGAIN: Duration = Duration::from_secs(30);
/// A session whose lease was not renewed for so long is over; a collector waits longer than that.
const LEASE: Duration = Duration::from_secs(20 * 60);
/// How long giving the lease back may take.
pub(crate) const GOODBYE: Duration = Duration::from_secs(5);

/// Whether a session may go on: when its lease was last renewed; `None` when it is over for good.
#[derive(Debug)]
struct Life(Mutex<Option<Moment>>);

impl Life {
    fn renewed(&self, at: Moment) {
        let mut last = lock(&self.0);
        // What has run out does not come back: a collector may have given the writer up.
        *last = last.filter(|last| last.elapsed() < LEASE).map(|_| at);
    }

    fn end(&self) {
        *lock(&self.0) = None;
    }

    fn is_going_on(&self) -> bool {
        lock(&self.0).is_some_and(|last| last.elapsed() < LEASE)
    }
}

/// A running session. [`Session::close`] gives the lease back.
#[derive(Debug)]
pub struct Session {
    bucket: Arc<dyn Bucket>,
    id: String,
    lease_key: String,
    since: u64,
    conditional_writes: bool,
    life: Arc<Life>,
    renewal: JoinHandle<()>,
}

impl Session {
    /// Begins a session: reads the format marker and the cache info, takes a lease.
    pub async fn open(bucket: Arc<dyn Bucket>, store_dir: &str) -> Result<Self> {
        let (format, info) =
            futures::future::join(check_format(&*bucket), check_cache_info(&*bucket, store_dir)).await;
        // Of a bucket that is not ready, the format is what is said first.
        let conditional_writes = format?.conditional_writes;
        info?;
        let id = object_keys::new_writer();
        let lease_key = object_keys::lease(&id);
        let (since, at) = (now(), Moment::now());
        write_lease(&*bucket, &lease_key, since).await?;
        point("session: begun");
        let life = Arc::new(Life(Mutex::new(Some(at))));
        let renewal = tokio::spawn(renew(bucket.clone(), lease_key.clone(), since, life.clone()));
        Ok(Self { bucket, id, lease_key, since, conditional_writes, life, renewal })
    }

    /// What tells this writer from all others.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether anything may be written still; asked before every narinfo.
    pub fn check(&self) -> Result<()> {
        if self.life.is_going_on() {
            return Ok(());
        }
        Err(Error::transient(Area::Bucket, format!("the session with `{}` has ended", self.bucket.address()))
            .because("its lease could not be renewed, or the bucket's format has changed"))
    }

    /// Whether the server is known to refuse a conditional write whose condition does not hold.
    pub fn has_conditional_writes(&self) -> bool {
        self.conditional_writes
    }

    /// Writes the lease again: what a writer may always do while the bucket works.
    pub async fn probe(&self) -> Result<()> {
        self.check()?;
        write_lease(&*self.bucket, &self.lease_key, self.since).await
    }

    /// Ends the session.
    pub async fn close(self) {
        self.renewal.abort();
        point("session: before its end");
        // A lease that stays runs out by itself.
        let _ = tokio::time::timeout(GOODBYE, self.bucket.delete(&self.lease_key)).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Refuses a bucket that has no marker or one of another format.
async fn check_format(bucket: &dyn Bucket) -> Result<Format> {
    let unfit = || Error::permanent(Area::Bucket, format!("cannot push to `{}`", bucket.address()));
    match bucket.get(object_keys::FORMAT).await? {
        None => Err(unfit()
            .because(format!("it has not been made ready: there is no `{}`", object_keys::FORMAT))
            .hint("`larder init` makes it ready; objects that are there stay")),
        Some(marker) => Format::check(&marker.body).map_err(|reason| {
            unfit().because(reason).hint("push with the newest larder that your machines use")
        }),
    }
}

/// Refuses a bucket for another store directory, which clients would skip.
async fn check_cache_info(bucket: &dyn Bucket, store_dir: &str) -> Result<()> {
    let unfit = || Error::permanent(Area::Bucket, format!("cannot push to `{}`", bucket.address()));
    let Some(object) = bucket.get(object_keys::CACHE_INFO).await? else {
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

async fn renew(bucket: Arc<dyn Bucket>, key: String, since: u64, life: Arc<Life>) {
    // A build with fail points can be told to renew the lease often, so that a test sees it within seconds.
    let period = if fault::is("frequent-renewal") { Duration::from_secs(1) } else { RENEWAL };
    let mut wait = period;
    loop {
        tokio::time::sleep(wait).await;
        let at = Moment::now();
        let renewed = match check_format(&*bucket).await {
            Ok(_) => write_lease(&*bucket, &key, since).await,
            Err(error) => Err(error),
        };
        wait = match renewed {
            Ok(()) => {
                life.renewed(at);
                period
            }
            Err(error) if error.retry() == Retry::Permanent => return life.end(),
            Err(_) => RENEWAL_AGAIN,
        };
    }
}
