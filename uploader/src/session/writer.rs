//! A writer's session with a bucket. It composes admission, lease, facts, reservations and sweep.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_hook::fault::point;
use nix_narinfo::TrustedPublicKey;
use tokio::task::JoinHandle;

use super::admission::admit;
use super::facts::Facts;
use super::lease::Lease;
use super::reservation::Reservations;
use super::sweep;
use super::vouchers::Vouchers;
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::object_keys;
use crate::format::pin::{Pin, PinName};
use crate::format::signature::SecretKey;

/// The longest time that the end of a session waits for the sweep, and for the deletion of the lease.
const END: Duration = Duration::from_secs(5);

/// A running session: the id of the writer, its lease, and what it knows about the bucket. [`Session::close`] deletes
/// the lease.
#[derive(Debug)]
pub struct Session {
    bucket: Arc<dyn Bucket>,
    id: String,
    conditional_writes: bool,
    lease: Lease,
    facts: Facts,
    reservations: Reservations,
    vouchers: Vouchers,
    sweep: Mutex<Option<JoinHandle<()>>>,
}

impl Session {
    /// Begins a session: reads the format marker and the cache info, and takes a lease, which `keys` sign. A writer whose
    /// lease has a signature of one of the keys `trusted` is [trusted](Session::writer_is_trusted).
    ///
    /// # Errors
    /// When the bucket is not prepared, is for another store directory, or cannot be read or written.
    pub async fn open(
        bucket: Arc<dyn Bucket>,
        store_dir: &str,
        keys: &[SecretKey],
        trusted: &[TrustedPublicKey],
    ) -> Result<Self> {
        let conditional_writes = admit(&*bucket, store_dir).await?.conditional_writes;
        let id = object_keys::new_writer();
        let lease = Lease::take(bucket.clone(), &id, keys).await?;
        point("session: begun");
        let reservations = Reservations::new(bucket.clone(), &id, conditional_writes);
        let vouchers = Vouchers::new(bucket.clone(), &id, trusted.to_vec());
        let (facts, sweep) = (Facts::default(), Mutex::default());
        Ok(Self { bucket, id, conditional_writes, lease, facts, reservations, vouchers, sweep })
    }

    /// The bucket.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// The id of this writer, unique among all writers.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the session knows about the bucket.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The reservations of large NARs.
    pub fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    /// Whether the writer whose id begins with the first eight characters of `nonce` is this writer, or a living writer
    /// whose lease has a signature of a trusted key. The nonce is that in the key of a NAR. After an error of the bucket,
    /// the answer is no.
    pub async fn writer_is_trusted(&self, nonce: &str) -> bool {
        self.vouchers.is_trusted(nonce).await
    }

    /// Whether the server is known to refuse a conditional write whose condition does not hold.
    pub fn has_conditional_writes(&self) -> bool {
        self.conditional_writes
    }

    /// Checks that the session goes on. A writer calls this before it writes a narinfo.
    ///
    /// # Errors
    /// When the lease has ended.
    pub fn check(&self) -> Result<()> {
        if self.lease.holds() {
            return Ok(());
        }
        Err(Error::transient(Area::Bucket, format!("the session with `{}` has ended", self.bucket.address()))
            .because("its lease could not be renewed, or the bucket's format has changed"))
    }

    /// Checks that the bucket accepts a write, by writing the lease again.
    ///
    /// # Errors
    /// When the session is over, or the bucket refuses the write.
    pub async fn probe(&self) -> Result<()> {
        self.check()?;
        self.lease.write().await
    }

    /// Writes a generation of a pin. Returns its id.
    ///
    /// # Errors
    /// When the session is over, or the bucket refuses the write.
    pub async fn pin(&self, name: &PinName, pin: &Pin) -> Result<String> {
        self.check()?;
        let id = object_keys::new_writer();
        let body = pin.to_json().into();
        self.bucket.put(&name.key(&id), body, ContentType::Json, Condition::IfAbsent).await?;
        point("session: pinned");
        Ok(id)
    }

    /// Begins to remove what dead writers have left in the bucket. `former` is the id of a session that is known to be
    /// dead. Only [`Session::close`] waits for the end, for 5 seconds at most.
    pub fn begin_sweep(&self, former: Option<String>) {
        *lock(&self.sweep) = Some(sweep::begin(self.bucket.clone(), self.id.clone(), former));
    }

    /// Ends the session.
    pub async fn close(self) {
        let sweep = lock(&self.sweep).take();
        if let Some(sweep) = sweep {
            let _ = tokio::time::timeout(END, sweep).await;
        }
        point("session: before its end");
        // A lease that cannot be deleted runs out by itself.
        let _ = tokio::time::timeout(END, self.lease.give_back()).await;
    }
}
