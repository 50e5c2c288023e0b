//! The lease of a process: an object which shows that the process is alive, what it is, and which collections it knows. The
//! session renews it, and looks at the collections before each renewal.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_hook::fault;
use larder_hook::time::now;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;

use super::admission::check_format;
use super::facts::Facts;
use super::gate_keeper::GateKeeper;
use super::look::Looker;
use super::rescue::{Rescuer, known_and_condemned};
use crate::base::clock::Moment;
use crate::base::error::{Result, Retry};
use crate::base::lock::lock;
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::marker::{Lease as Contents, Role};
use crate::format::object_keys;
use crate::format::signature::SecretKey;

/// The part of the time between two renewals that passes between a failed renewal and the next attempt, and while requests
/// that were sent before a look may still be carried out.
const AGAIN: u32 = 10;

/// A lease that is renewed until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    turns: Arc<Turns>,
    renewal: Mutex<Option<JoinHandle<()>>>,
}

/// What each turn works with: a look at the collections, and a renewal.
#[derive(Debug)]
struct Turns {
    object: Object,
    keeper: Arc<GateKeeper>,
    facts: Arc<Facts>,
    rescuer: Rescuer,
    /// What earlier looks have read. Only one look is taken at a time.
    looker: AsyncMutex<Looker>,
    /// Held while the lease is written.
    writing: AsyncMutex<()>,
}

impl Lease {
    /// Writes a new lease for the process `id`, signed by `keys`, looks at the collections, and begins to renew the lease.
    pub(super) async fn take(
        bucket: Arc<dyn Bucket>,
        (id, role): (&str, Role),
        keys: &[SecretKey],
        keeper: Arc<GateKeeper>,
        facts: Arc<Facts>,
    ) -> Result<Self> {
        let since = now();
        let fingerprint = Contents::fingerprint(id, since);
        let signatures =
            keys.iter().map(|key| Ok(key.sign(&fingerprint)?.to_string())).collect::<Result<_>>()?;
        let rescuer = Rescuer::new(bucket.clone(), id, keeper.clone());
        let object = Object { bucket, key: object_keys::lease(id), since, signatures, role };
        let turns = Turns {
            object,
            keeper,
            facts,
            rescuer,
            looker: AsyncMutex::default(),
            writing: AsyncMutex::default(),
        };
        // Only when the lease is in the bucket, the collections are read.
        turns.write().await?;
        let turns = Arc::new(turns);
        let looked = if role == Role::Writer { turns.look().await.map(drop) } else { Ok(()) };
        if looked.is_err() && !turns.keeper.any_open() {
            // Otherwise a collection would wait for a lease that acknowledges nothing, until it is dead.
            let _ = turns.object.bucket.delete(&turns.object.key).await;
        }
        looked?;
        // The session need not wait until the lease acknowledges, and the collection not until the next renewal.
        let at_once = !turns.keeper.is_open();
        let renewal = tokio::spawn(renew(turns.clone(), at_once));
        Ok(Self { turns, renewal: Mutex::new(Some(renewal)) })
    }

    /// Writes the lease again.
    pub(super) async fn write(&self) -> Result<()> {
        self.turns.write().await
    }

    /// Looks at the collections, and writes the lease with what was found.
    pub(super) async fn turn(&self) -> Result<()> {
        self.turns.turn().await.map(drop)
    }

    /// The rescues of this session.
    pub(super) fn rescuer(&self) -> &Rescuer {
        &self.turns.rescuer
    }

    /// Ends the renewal and deletes the lease. A lease stays while a request of its process may still be carried out.
    pub(super) async fn give_back(&self) -> Result<()> {
        // The lease that is being written would come back.
        let _writing = self.turns.writing.lock().await;
        self.stop();
        match self.turns.keeper.any_open() {
            true => Ok(()),
            false => self.turns.object.bucket.delete(&self.turns.object.key).await,
        }
    }

    fn stop(&self) {
        if let Some(renewal) = lock(&self.renewal).take() {
            renewal.abort();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop();
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
    role: Role,
}

impl Turns {
    /// Looks at the collections, forgets what has ended, rescues what the session knows to be there, and renews the lease.
    /// Returns whether nothing more is to be acknowledged.
    async fn turn(&self) -> Result<bool> {
        check_format(&*self.object.bucket).await?;
        let is_settled = self.object.role == Role::Collector || self.look().await?;
        self.write().await?;
        Ok(is_settled)
    }

    /// Looks at the collections. Returns whether all that the session knows is acknowledged.
    async fn look(&self) -> Result<bool> {
        let mut looker = self.looker.lock().await;
        let sent = Moment::now();
        let found = looker.look(&*self.object.bucket).await?;
        let known = known_and_condemned(&found.open, &self.facts);
        self.keeper.looked(found, sent, &self.facts);
        drop(looker);
        self.rescuer.rescue(known).await?;
        Ok(self.keeper.acknowledge())
    }

    async fn write(&self) -> Result<()> {
        let _writing = self.writing.lock().await;
        let sent = Moment::now();
        let contents = Contents {
            since: self.object.since,
            renewed: now(),
            version: env!("CARGO_PKG_VERSION").into(),
            signatures: self.object.signatures.clone(),
            counter: Some(self.keeper.attempt()),
            role: self.object.role,
            acknowledged: self.keeper.acknowledgements(),
        };
        let body = contents.to_json().into();
        self.object.bucket.put(&self.object.key, body, ContentType::Json, Condition::None).await?;
        self.keeper.renewed(sent);
        Ok(())
    }

    /// The time between two renewals.
    fn period(&self) -> Duration {
        // A build with fail points can renew the lease often, so that a test sees the renewal within seconds.
        let renewal = self.keeper.limits().renewal;
        if fault::is("frequent-renewal") { renewal.min(Duration::from_secs(1)) } else { renewal }
    }
}

/// Renews a lease until the bucket refuses permanently.
async fn renew(turns: Arc<Turns>, at_once: bool) {
    let period = turns.period();
    let mut wait = period;
    if at_once && turns.write().await.is_err() {
        wait = period / AGAIN;
    }
    loop {
        tokio::time::sleep(wait).await;
        wait = match turns.turn().await {
            Ok(true) => period,
            Err(error) if error.retry() == Retry::Permanent => return turns.keeper.refuse(),
            Ok(false) | Err(_) => period / AGAIN,
        };
    }
}
