//! Removes the objects that killed writers leave in a bucket: unfinished multipart uploads, reservations, and leases.
//!
//! The key of a NAR names its writer, and so does the contents of a reservation. A writer is dead when its lease is
//! gone, or when its lease was last written more than a day ago. The bucket tells the age of a lease by its own clock:
//! the clocks of the writers may be wrong.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use tokio::task::JoinHandle;

use crate::base::error::Result;
use crate::bucket::{Bucket, Depth};
use crate::format::marker::Reservation;
use crate::format::object_keys;

/// The age from which a lease shows that its writer is dead. A session ends 20 minutes after the last renewal.
const DEAD: Duration = Duration::from_secs(24 * 3600);
/// The most pages of leases that are read. A bucket has more than one page of leases only if a thousand hosts write to
/// it.
const PAGES: usize = 32;
/// The longest time that the removal takes.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// Begins to remove what writers that were killed have left in the bucket. `own` is the id of this writer, `former` the
/// id of a session that is known to be dead.
/// In a bucket that `can_be_collected`, a lease stays until a collector has seen for certain that its process is dead.
pub(super) fn begin(
    bucket: Arc<dyn Bucket>,
    own: String,
    former: Option<String>,
    can_be_collected: bool,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        // After an error, the next session finds the objects again.
        let _ =
            tokio::time::timeout(LONGEST, sweep(&*bucket, &own, former.as_deref(), can_be_collected)).await;
    })
}

/// Removes the objects of dead writers.
async fn sweep(bucket: &dyn Bucket, own: &str, former: Option<&str>, can_be_collected: bool) -> Result<()> {
    if let Some(former) = former.filter(|_| !can_be_collected) {
        bucket.delete(&object_keys::lease(former)).await?;
    }
    // Leases are read last: a writer writes its lease before it begins an upload or a reservation.
    let (reserved, left) =
        join(reservations(bucket, object_keys::writer(own)), bucket.unfinished(object_keys::NARS)).await;
    // Some servers do not list uploads.
    let (reserved, left) = (reserved?, left.unwrap_or_default());
    let leases = leases(bucket, own, former).await?;
    for (key, writer) in reserved {
        if leases.prove_dead(&writer) {
            bucket.delete(&key).await?;
        }
    }
    for upload in left {
        if object_keys::nar_writer(&upload.key).is_some_and(|writer| leases.prove_dead(writer)) {
            bucket.discard(&upload).await?;
        }
    }
    for lease in leases.dead {
        if !can_be_collected || lease.starts_with(object_keys::PROBES) {
            bucket.delete(&lease).await?;
        }
    }
    Ok(())
}

/// The keys of the reservations of other writers, and the names of these writers in the keys of NARs. One page of the
/// listing is enough: only a bucket that thousands of hosts write to at the same time has more.
async fn reservations(bucket: &dyn Bucket, own: &str) -> Result<Vec<(String, String)>> {
    let mut reserved = Vec::new();
    for object in bucket.list(object_keys::RESERVATIONS, None, Depth::Flat).await?.objects {
        let read = bucket.get(&object.key).await?;
        let read = read.and_then(|read| serde_json::from_slice::<Reservation>(&read.body).ok());
        let Some(Reservation { writer }) = read else { continue };
        let writer = object_keys::writer(&writer);
        if writer != own {
            reserved.push((object.key, writer.to_owned()));
        }
    }
    Ok(reserved)
}

/// The leases in the bucket.
struct Leases {
    /// The names of living writers in the keys of NARs.
    alive: HashSet<String>,
    /// The keys of the leases of dead writers.
    dead: Vec<String>,
    /// Whether all leases are known.
    complete: bool,
}

impl Leases {
    /// Whether the writer has no lease of a living writer.
    fn prove_dead(&self, writer: &str) -> bool {
        self.complete && !self.alive.contains(writer)
    }
}

/// Reads the leases. The session with the id `own` lives in any case, and `former` does not.
async fn leases(bucket: &dyn Bucket, own: &str, former: Option<&str>) -> Result<Leases> {
    let alive = HashSet::from([object_keys::writer(own).to_owned()]);
    let mut leases = Leases { alive, dead: Vec::new(), complete: false };
    let mut after = None;
    for _ in 0..PAGES {
        let page = bucket.list(object_keys::WRITERS, after.as_ref(), Depth::Flat).await?;
        for lease in page.objects {
            let is_old = lease.age.is_some_and(|age| age > DEAD);
            match object_keys::lease_id(&lease.key) {
                Some(id) if id != own && is_old => leases.dead.push(lease.key),
                // What a killed `larder init` left.
                None if is_old && lease.key.starts_with(object_keys::PROBES) => leases.dead.push(lease.key),
                None => {}
                Some(id) if former == Some(id) => {}
                // The writer of a lease of unknown age may live.
                Some(id) => drop(leases.alive.insert(object_keys::writer(id).to_owned())),
            }
        }
        after = page.next;
        if after.is_none() {
            leases.complete = true;
            break;
        }
    }
    Ok(leases)
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
