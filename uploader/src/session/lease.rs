//! The lease of a writer: an object which shows that the writer is alive. The session renews it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_hook::fault;
use larder_hook::time::now;
use tokio::task::JoinHandle;

use super::admission::check_format;
use crate::base::clock::Moment;
use crate::base::error::{Result, Retry};
use crate::base::lock::lock;
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::marker::Lease as Contents;
use crate::format::object_keys;
use crate::format::signature::SecretKey;

/// Time between two renewals. The format marker is read again at each renewal.
const RENEWAL: Duration = Duration::from_secs(5 * 60);
/// Time between a failed renewal and the next attempt.
const RENEWAL_AGAIN: Duration = Duration::from_secs(30);
/// A lease ends this long after its last renewal. A collector waits longer than that.
pub(super) const LEASE: Duration = Duration::from_secs(20 * 60);

/// A lease that is renewed until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    object: Object,
    life: Arc<Life>,
    renewal: JoinHandle<()>,
}

impl Lease {
    /// Writes a new lease for the writer `id`, signed by `keys`, and begins to renew it.
    pub(super) async fn take(bucket: Arc<dyn Bucket>, id: &str, keys: &[SecretKey]) -> Result<Self> {
        let since = now();
        let fingerprint = Contents::fingerprint(id, since);
        let signatures =
            keys.iter().map(|key| Ok(key.sign(&fingerprint)?.to_string())).collect::<Result<_>>()?;
        let object = Object { bucket, key: object_keys::lease(id), since, signatures };
        let at = Moment::now();
        object.write().await?;
        let life = Arc::new(Life(Mutex::new(Some(at))));
        let renewal = tokio::spawn(renew(object.clone(), life.clone()));
        Ok(Self { object, life, renewal })
    }

    /// Whether the lease holds. A lease that has ended does not begin again.
    pub(super) fn holds(&self) -> bool {
        self.life.goes_on()
    }

    /// Writes the lease again.
    pub(super) async fn write(&self) -> Result<()> {
        self.object.write().await
    }

    /// Ends the renewal and deletes the lease.
    pub(super) async fn give_back(&self) -> Result<()> {
        self.renewal.abort();
        self.object.bucket.delete(&self.object.key).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// The object of a lease.
#[derive(Clone, Debug)]
struct Object {
    bucket: Arc<dyn Bucket>,
    key: String,
    /// When the session began, in seconds since 1970.
    since: u64,
    signatures: Vec<String>,
}

impl Object {
    async fn write(&self) -> Result<()> {
        let (version, signatures) = (env!("CARGO_PKG_VERSION").into(), self.signatures.clone());
        let contents = Contents { since: self.since, renewed: now(), version, signatures };
        let body = contents.to_json().into();
        self.bucket.put(&self.key, body, ContentType::Json, Condition::None).await.map(drop)
    }
}

/// The time of the last renewal; `None` after the end of the lease.
#[derive(Debug)]
struct Life(Mutex<Option<Moment>>);

impl Life {
    fn renewed(&self, at: Moment) {
        let mut last = lock(&self.0);
        // A lease that has run out does not begin again: a collector may have counted its writer as dead.
        *last = last.filter(|last| last.elapsed() < LEASE).map(|_| at);
    }

    fn end(&self) {
        *lock(&self.0) = None;
    }

    fn goes_on(&self) -> bool {
        lock(&self.0).is_some_and(|last| last.elapsed() < LEASE)
    }
}

/// Renews a lease until the bucket refuses permanently.
async fn renew(object: Object, life: Arc<Life>) {
    // A build with fail points can renew the lease often, so that a test sees the renewal within seconds.
    let period = if fault::is("frequent-renewal") { Duration::from_secs(1) } else { RENEWAL };
    let mut wait = period;
    loop {
        tokio::time::sleep(wait).await;
        let at = Moment::now();
        let renewed = match check_format(&*object.bucket).await {
            Ok(_) => object.write().await,
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
