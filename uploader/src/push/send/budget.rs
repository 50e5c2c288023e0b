//! The memory that compressed parts may take up, and how much of it waits for the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The unit in which memory is budgeted.
const UNIT: u64 = 64 << 10;

/// The memory that compressed parts may take up, over all uploads.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    semaphore: Arc<Semaphore>,
    total: u32,
    /// How much of it is for parts that are complete.
    sending: u64,
    /// Bytes of parts that are complete and not sent yet.
    pending: Arc<AtomicU64>,
}

impl Budget {
    /// A budget of so many bytes for parts that are being filled, and for parts that are being sent.
    pub(super) fn new(filling: u64, sending: u64) -> Self {
        let total = units(filling + sending);
        let semaphore = Arc::new(Semaphore::new(total as usize));
        Self { semaphore, total, sending, pending: Arc::default() }
    }

    /// Waits for the memory of one part. One that is larger than the whole budget gets all of it.
    pub(super) async fn take(&self, bytes: u64) -> Result<Share, AcquireError> {
        let permit = self.semaphore.clone().acquire_many_owned(units(bytes).min(self.total)).await?;
        Ok(Share { permit, pending: self.pending.clone() })
    }

    /// The share of the memory for sending that is in use: about 1 where parts are made faster than they are sent.
    pub(super) fn backlog(&self) -> f64 {
        self.pending.load(Ordering::Relaxed) as f64 / self.sending.max(1) as f64
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 3).max(1)
}

/// A share of the budget.
#[derive(Debug)]
pub(super) struct Share {
    permit: OwnedSemaphorePermit,
    pending: Arc<AtomicU64>,
}

/// A piece of the compressed stream, to be sent. It holds its share of the budget until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) bytes: Bytes,
    share: Option<Share>,
}

impl Part {
    /// With no more of the budget than it needs.
    pub(super) fn new(bytes: Bytes, mut share: Share) -> Self {
        let needed = units(bytes.len() as u64) as usize;
        drop(share.permit.split(share.permit.num_permits().saturating_sub(needed)));
        share.pending.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Self { bytes, share: Some(share) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(share) = &self.share {
            share.pending.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_counts_until_it_is_sent() {
        let budget = Budget::new(UNIT, 3 * UNIT);
        let share = budget.take(4 * UNIT).await.unwrap();
        assert_eq!((budget.backlog(), budget.semaphore.available_permits()), (0.0, 0));
        let part = Part::new(vec![0; 3 * UNIT as usize - 5].into(), share);
        assert!(budget.backlog() > 0.99);
        assert_eq!(budget.semaphore.available_permits(), 1, "what it does not need is given back");
        drop(part);
        assert_eq!((budget.backlog(), budget.semaphore.available_permits()), (0.0, 4));
    }

    #[tokio::test]
    async fn a_part_larger_than_the_budget_gets_all_of_it() {
        let budget = Budget::new(UNIT, UNIT);
        let share = budget.take(u64::MAX >> 20).await.unwrap();
        assert_eq!(share.permit.num_permits(), 2);
    }
}
