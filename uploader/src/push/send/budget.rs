//! Limits the memory for compressed parts, and measures how much of it waits to be sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The unit of the budget, in bytes.
const UNIT: u64 = 64 << 10;

/// The limit of the memory for compressed parts, over all uploads.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    /// The free units.
    semaphore: Arc<Semaphore>,
    /// All units.
    total: u32,
    /// Bytes for parts that are complete.
    sending: u64,
    /// Bytes of parts that are complete and not sent yet.
    pending: Arc<AtomicU64>,
}

impl Budget {
    /// A budget of `filling` bytes for parts that are being filled, and `sending` bytes for parts that are being sent.
    pub(super) fn new(filling: u64, sending: u64) -> Self {
        let total = units(filling + sending);
        let semaphore = Arc::new(Semaphore::new(total as usize));
        Self { semaphore, total, sending, pending: Arc::default() }
    }

    /// Waits for the memory of a part of `bytes` bytes. A part that is larger than the budget gets the whole budget.
    pub(super) async fn take(&self, bytes: u64) -> Result<Share, AcquireError> {
        let permit = self.semaphore.clone().acquire_many_owned(units(bytes).min(self.total)).await?;
        Ok(Share { permit, pending: self.pending.clone() })
    }

    /// The share of the memory for sending that is in use: about 1 when parts are produced faster than they are sent.
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

/// A part of the compressed stream. It holds its share of the budget until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The bytes of the part.
    pub(super) bytes: Bytes,
    share: Option<Share>,
}

impl Part {
    /// A complete part, which waits to be sent. The memory of `share` that it does not need becomes free.
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
    async fn a_part_counts_as_backlog_until_it_is_dropped() {
        let budget = Budget::new(UNIT, 3 * UNIT);
        let share = budget.take(4 * UNIT).await.unwrap();
        assert_eq!((budget.backlog(), budget.semaphore.available_permits()), (0.0, 0));
        let part = Part::new(vec![0; 3 * UNIT as usize - 5].into(), share);
        assert!(budget.backlog() > 0.99);
        assert_eq!(budget.semaphore.available_permits(), 1, "the memory that the part does not need is free");
        drop(part);
        assert_eq!((budget.backlog(), budget.semaphore.available_permits()), (0.0, 4));
    }

    #[tokio::test]
    async fn a_part_larger_than_the_budget_gets_the_whole_budget() {
        let budget = Budget::new(UNIT, UNIT);
        let share = budget.take(u64::MAX >> 20).await.unwrap();
        assert_eq!(share.permit.num_permits(), 2);
    }
}
