//! A collector's session: its lease, its fence, and what it reads of other processes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use super::admission::admit;
use super::facts::Facts;
use super::gate_keeper::{GateKeeper, acknowledged};
use super::lease::Lease;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::base::file::MAX_SMALL;
use crate::base::lock::lock;
use crate::base::span::span_text;
use crate::bucket::{Bucket, Depth, Fence};
use crate::format::marker::{self, Lease as Contents};
use crate::format::object_keys;
use crate::format::signature::SecretKey;
use crate::protocol::collection::Acknowledged;
use crate::protocol::gate::Stage;
use crate::protocol::leases::{Claim, Life, Role, Watch, claim};
use crate::protocol::limits::Limits;
use crate::protocol::rules::Rules;

/// The number of leases that are read at the same time.
const CONCURRENT: usize = 16;
/// The most leases of a bucket. A server that never ends is refused.
const MOST: usize = 1_000_000;

/// The number of looks at the leases within the time between two renewals.
const LOOKS: u32 = 10;
/// How long a collector waits for others, in the times after which a lease is dead.
const PATIENCE: u32 = 3;

/// A running session of a collector.
#[derive(Debug)]
pub struct CollectorSession {
    bucket: Arc<dyn Bucket>,
    id: String,
    keeper: Arc<GateKeeper>,
    lease: Lease,
    deletions: Arc<Deletions>,
    watches: Watches,
}

/// What the process has seen of the leases of others, by their ids.
type Watches = Mutex<BTreeMap<String, Watch<Vec<u8>>>>;

/// A lease of another process, as it was read.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The id of the process.
    pub id: String,
    /// What the process is. A lease that cannot be read belongs to a writer.
    pub role: Role,
    /// Whether the process may still change the bucket.
    pub life: Life,
    /// For each collection, the stage that it has acknowledged.
    pub acknowledged: BTreeMap<String, Stage>,
    /// Whether the process knows collections: a lease of format 1 says nothing of them.
    pub knows_collections: bool,
}

impl Seen {
    /// Whether the process may still change the bucket.
    pub fn is_alive(&self) -> bool {
        self.life == Life::Living
    }
}

impl CollectorSession {
    /// Puts a lease with the role of a collector.
    ///
    /// # Errors
    /// When the bucket is not prepared, is of format 1, or cannot be written to.
    pub async fn open(bucket: Arc<dyn Bucket>, store_dir: &str, keys: &[SecretKey]) -> Result<Self> {
        let format = admit(&*bucket, store_dir).await?;
        if !format.can_be_collected() {
            let text = format!("cannot collect `{}`", bucket.address());
            return Err(Error::permanent(Area::Bucket, text)
                .because("it has format 1, whose writers know no collections")
                .hint("update larder on all machines that push, and run `larder upgrade`"));
        }
        Self::begin(bucket, keys, Mutex::default()).await
    }

    async fn begin(bucket: Arc<dyn Bucket>, keys: &[SecretKey], watches: Watches) -> Result<Self> {
        let id = object_keys::new_writer();
        let keeper = Arc::new(GateKeeper::new(bucket.address()));
        let role = (&*id, marker::Role::Collector);
        let lease =
            Lease::take(bucket.clone(), role, keys, keeper.clone(), Arc::new(Facts::default())).await?;
        let deletions = Arc::new(Deletions { keeper: keeper.clone(), last: Mutex::default() });
        Ok(Self { bucket, id, keeper, lease, deletions, watches })
    }

    /// Opens a session, and waits until it is the only one that may act. Others end, or count as dead after
    /// [`Limits::dead`]. If another one goes first, this one begins again under another id. `waits` is told how many others
    /// there are. `None` if `stop` is ready before.
    ///
    /// # Errors
    /// As for [`CollectorSession::open`], and when others are at work for too long.
    pub async fn claim(
        bucket: Arc<dyn Bucket>,
        store_dir: &str,
        keys: &[SecretKey],
        waits: &(dyn Fn(usize) + Send + Sync),
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Self>> {
        let begun = Moment::now();
        let mut stop = std::pin::pin!(stop);
        let mut session = Self::open(bucket, store_dir, keys).await?;
        let longest = session.limits().dead() * PATIENCE;
        loop {
            let looked = tokio::select! {
                claimed = session.try_claim(waits) => claimed.map(Some),
                () = &mut stop => Ok(None),
            };
            match looked {
                Ok(Some(Claim::Act)) => return Ok(Some(session)),
                Ok(Some(Claim::GiveWay)) if begun.elapsed() <= longest => {
                    session = session.again(keys).await?
                }
                Ok(Some(_)) if begun.elapsed() <= longest => {}
                looked => {
                    // The lease of a session that is left would hold others up for almost an hour.
                    session.close().await;
                    return looked?.map_or(Ok(None), |_| Err(others_at_work(longest)));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(session.limits().renewal / LOOKS) => {}
                () = &mut stop => {
                    session.close().await;
                    return Ok(None);
                }
            }
        }
    }

    /// Looks whether this session is the only one that may act.
    async fn try_claim(&self, waits: &(dyn Fn(usize) + Send + Sync)) -> Result<Claim> {
        let leases = self.leases().await?;
        let others = leases.iter().filter(|seen| seen.role == Role::Collector);
        let claimed = claim(&self.id, others.clone().map(|seen| (&seen.id, seen.life)), Rules::ALL);
        match claimed {
            // Those that are not removed now are removed later.
            Claim::Act => _ = self.bury(&leases).await,
            _ => waits(others.filter(|seen| seen.is_alive()).count()),
        }
        Ok(claimed)
    }

    /// Ends the session, waits a little, and begins another one, which remembers what this one has seen of others.
    async fn again(self, keys: &[SecretKey]) -> Result<Self> {
        let (bucket, watches) = (self.bucket.clone(), Mutex::new(std::mem::take(&mut *lock(&self.watches))));
        let pause = self.limits().renewal;
        self.close().await;
        tokio::time::sleep(pause).await;
        Self::begin(bucket, keys, watches).await
    }

    /// The id of this process.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bucket, for reading.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// The bucket, for changes: each attempt is sent only while the lease holds.
    pub fn fenced(&self) -> Arc<dyn Bucket> {
        let last = Mutex::default();
        self.bucket.clone().fenced(Arc::new(Deletions { keeper: self.keeper.clone(), last }))
    }

    /// The same, for the deletion of narinfos and NARs.
    pub fn deleting(&self) -> Arc<dyn Bucket> {
        self.bucket.clone().fenced(self.deletions.clone())
    }

    /// Whether a change may still be carried out.
    pub fn any_open(&self) -> bool {
        self.keeper.any_open()
    }

    /// The times of the protocol.
    pub fn limits(&self) -> &Limits {
        self.keeper.limits()
    }

    /// Whether the lease holds.
    pub fn holds(&self) -> bool {
        self.keeper.holds()
    }

    /// The error of a session that is over.
    pub fn over(&self) -> Error {
        self.keeper.over()
    }

    /// The time since the last deletion was signed; `None` if there was none.
    pub fn last_deletion(&self) -> Option<Duration> {
        lock(&self.deletions.last).map(Moment::elapsed)
    }

    /// Reads the leases of all other processes. A process that counts as dead for the first time changes nothing any more when
    /// this function returns.
    ///
    /// # Errors
    /// When the bucket fails: the processes are then unknown.
    pub async fn leases(&self) -> Result<Vec<Seen>> {
        let (mut keys, mut next) = (Vec::new(), None);
        loop {
            let page = self.bucket.list(object_keys::WRITERS, next.as_ref(), Depth::Flat).await?;
            keys.extend(page.objects);
            next = page.next;
            if next.is_none() {
                break;
            }
            if keys.len() > MOST {
                return Err(
                    Error::permanent(Area::Bucket, "cannot list the leases").because("there is no end")
                );
            }
        }
        keys.retain(|object| object_keys::lease_id(&object.key).is_some_and(|id| id != self.id));
        let reads = keys.into_iter().map(|object| async move {
            let asked = Moment::now();
            // No process writes such a lease. It says nothing, and is watched like others.
            if object.size > MAX_SMALL {
                let seen = format!("{} bytes, {:?}", object.size, object.etag).into_bytes();
                return Ok((Some(seen), asked, object.key));
            }
            let found = self.bucket.get(&object.key).await?;
            Ok::<_, Error>((found.map(|found| found.body.to_vec()), asked, object.key))
        });
        let read: Vec<_> = stream::iter(reads).buffer_unordered(CONCURRENT).try_collect().await?;
        let mut seen: Vec<Seen> = Vec::new();
        for (object, asked, key) in read {
            let (Some(body), Some(id)) = (object, object_keys::lease_id(&key)) else { continue };
            seen.push(self.see(id, &body, asked));
        }
        if seen.iter().any(|seen| seen.life == Life::Dead) {
            self.bucket.barrier().await?;
        }
        let mut watches = lock(&self.watches);
        watches.retain(|id, _| seen.iter().any(|seen| seen.id == *id));
        Ok(seen)
    }

    fn see(&self, id: &str, body: &[u8], asked: Moment) -> Seen {
        let contents = serde_json::from_slice::<Contents>(body).ok();
        let role = match contents.as_ref().map(|contents| contents.role) {
            Some(marker::Role::Collector) => Role::Collector,
            _ => Role::Writer,
        };
        // The whole lease is compared, so that a lease of format 1, which has no counter, is watched, too.
        let mut watches = lock(&self.watches);
        let watch = watches.entry(id.to_owned()).or_insert_with(|| Watch::new(Rules::ALL));
        let answered = Moment::now().since_start();
        let life = watch.sight(body.to_vec(), asked.since_start(), answered, self.limits());
        let knows_collections = contents.as_ref().is_some_and(|contents| contents.counter.is_some());
        let said = contents.map(|contents| contents.acknowledged).unwrap_or_default();
        let acknowledged = said.into_iter().map(|(id, stage)| (id, acknowledged(stage))).collect();
        Seen { id: id.to_owned(), role, life, acknowledged, knows_collections }
    }

    /// Removes the leases of processes that are dead.
    ///
    /// # Errors
    /// When the bucket fails.
    pub async fn bury(&self, leases: &[Seen]) -> Result<()> {
        for seen in leases.iter().filter(|seen| seen.life == Life::Dead) {
            self.fenced().delete(&object_keys::lease(&seen.id)).await?;
        }
        Ok(())
    }

    /// Ends the session. The lease stays while a change may still be carried out.
    pub async fn close(self) {
        // A lease that cannot be deleted is counted as dead later.
        let _ = self.lease.give_back().await;
    }
}

fn others_at_work(waited: Duration) -> Error {
    Error::transient(Area::Bucket, "cannot collect, because other collectors are at work")
        .because(format!("they have not ended within {}", span_text(waited)))
        .hint("one collector is enough for a bucket")
}

/// What the leases say of a collection, if they were listed after its last stage was in the bucket.
pub fn acknowledged_by(leases: &[Seen], collection: &str, listed_after: Stage) -> Acknowledged {
    let said = |seen: &Seen| {
        (seen.role, seen.life, seen.acknowledged.get(collection).copied().filter(|_| seen.knows_collections))
    };
    Acknowledged::by(listed_after, leases.iter().map(said))
}

/// Lets changes pass while the lease holds, and remembers when the last attempt was signed.
#[derive(Debug)]
struct Deletions {
    keeper: Arc<GateKeeper>,
    last: Mutex<Option<Moment>>,
}

impl Fence for Deletions {
    fn pass(&self) -> Result<u64> {
        let number = self.keeper.count();
        if !self.keeper.holds() {
            self.keeper.answered(number);
            return Err(self.keeper.over());
        }
        *lock(&self.last) = Some(Moment::now());
        Ok(number)
    }

    fn answered(&self, attempt: u64) {
        self.keeper.answered(attempt);
    }
}
