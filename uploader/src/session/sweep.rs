//! What writers that were killed leave in a bucket: uploads in parts that nobody will finish, reservations, and leases.
//!
//! The key of a NAR names its writer, and so does a reservation. They are left behind when the lease of the writer is gone, or has not been
//! renewed for so long that the writer is dead by any clock.

use std::collections::HashSet;
use std::sync::Arc;

use larder_hook::queue::now;
use tokio::task::JoinHandle;

use crate::base::error::Result;
use crate::bucket::{Bucket, Depth};
use crate::format::marker::{Lease, Reservation};
use crate::format::object_keys;

/// A lease that was renewed before this, in seconds, is that of a dead writer. Sessions end after 20 minutes without
/// renewal; the rest is for clocks that differ.
const DEAD: u64 = 24 * 3600;

/// Begins to remove what writers that were killed have left in the bucket. `own` is the id of this writer, `former` the id
/// of a session that is known to be dead.
pub fn begin(bucket: Arc<dyn Bucket>, own: String, former: Option<String>) -> JoinHandle<()> {
    tokio::spawn(async move {
        // What could not be removed is found again by the next session.
        let _ = sweep(&*bucket, &own, former.as_deref()).await;
    })
}

/// Removes what dead writers have left. `own` is the id of this writer, `former` that of one that is known to be dead.
///
/// Whatever cannot be removed now is left to the next session.
async fn sweep(bucket: &dyn Bucket, own: &str, former: Option<&str>) -> Result<()> {
    if let Some(former) = former {
        bucket.delete(&object_keys::lease(former)).await?;
    }
    let own = object_keys::writer(own);
    // Leases last: who had begun an upload or reserved anything by then had written its lease before that.
    let reserved = reservations(bucket, own).await?;
    // Not every server lists uploads.
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

/// The keys of others' reservations, and how the keys of NARs name their writers: the first page, which is all there are
/// but in a bucket that thousands write to at the same time.
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

struct Leases {
    /// How the keys of NARs name their writers.
    alive: HashSet<String>,
    /// The keys of the leases.
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
                // One that cannot be read, or has gone just now, may be anything.
                _ => drop(leases.alive.insert(object_keys::writer(id).to_owned())),
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(leases),
        }
    }
}
