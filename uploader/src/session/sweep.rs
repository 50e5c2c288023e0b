//! Removes the objects that killed writers leave in a bucket: unfinished multipart uploads, reservations, and leases.
//!
//! The key of a NAR names its writer, and so does the contents of a reservation. A writer is dead when its lease is
//! gone, or has not been renewed for so long that the writer is dead by any clock.

use std::collections::HashSet;
use std::sync::Arc;

use larder_hook::time::now;
use tokio::task::JoinHandle;

use crate::base::error::Result;
use crate::bucket::{Bucket, Depth};
use crate::format::marker::{Lease, Reservation};
use crate::format::object_keys;

/// The age in seconds from which a lease shows that its writer is dead. A session ends 20 minutes after the last
/// renewal. The difference is for clocks that differ.
const DEAD: u64 = 24 * 3600;

/// Begins to remove what writers that were killed have left in the bucket. `own` is the id of this writer, `former` the
/// id of a session that is known to be dead.
pub(super) fn begin(bucket: Arc<dyn Bucket>, own: String, former: Option<String>) -> JoinHandle<()> {
    tokio::spawn(async move {
        // After an error, the next session finds the objects again.
        let _ = sweep(&*bucket, &own, former.as_deref()).await;
    })
}

/// Removes the objects of dead writers.
async fn sweep(bucket: &dyn Bucket, own: &str, former: Option<&str>) -> Result<()> {
    if let Some(former) = former {
        bucket.delete(&object_keys::lease(former)).await?;
    }
    let own = object_keys::writer(own);
    // Leases are read last: a writer writes its lease before it begins an upload or a reservation.
    let reserved = reservations(bucket, own).await?;
    // Some servers do not list uploads.
    let mut left = bucket.unfinished(object_keys::NARS).await.unwrap_or_default();
    left.retain(|upload| object_keys::nar_writer(&upload.key).is_some_and(|writer| writer != own));
    if left.is_empty() && reserved.is_empty() {
        return Ok(());
    }
    let Leases { alive, dead } = leases(bucket).await?;
    for (key, writer) in reserved {
        if !alive.contains(&writer) {
            bucket.delete(&key).await?;
        }
    }
    for upload in left {
        if object_keys::nar_writer(&upload.key).is_some_and(|writer| !alive.contains(writer)) {
            bucket.discard(&upload).await?;
        }
    }
    for lease in dead {
        bucket.delete(&lease).await?;
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
}

async fn leases(bucket: &dyn Bucket) -> Result<Leases> {
    let mut leases = Leases { alive: HashSet::new(), dead: Vec::new() };
    let mut after = None;
    loop {
        let page = bucket.list(object_keys::WRITERS, after.as_ref(), Depth::Flat).await?;
        for lease in page.objects {
            let Some(id) = object_keys::lease_id(&lease.key) else { continue };
            let read = bucket.get(&lease.key).await?;
            let parsed = read.and_then(|object| serde_json::from_slice::<Lease>(&object.body).ok());
            match parsed {
                Some(parsed) if parsed.renewed.abs_diff(now()) > DEAD => leases.dead.push(lease.key),
                // An unreadable lease may belong to a living writer. So may a lease that was deleted after the listing.
                _ => drop(leases.alive.insert(object_keys::writer(id).to_owned())),
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(leases),
        }
    }
}
