//! One byte budget for everything in flight: memory stays flat whatever the number of partitions.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of account: small enough to be fair to small topics, large enough that 4 TiB fit a semaphore's count.
const UNIT: usize = 1024;

/// Bytes that buffers in flight may hold, shared by every partition of the process.
///
/// Requests are served in the order in which they were made, so a large one is never starved by small ones. One that
/// is larger than the whole budget enters when the budget is otherwise empty: a record larger than expected slows
/// the connector down but never blocks it.
#[derive(Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    limit: u32,
}

impl Budget {
    /// A budget of `bytes`, at least one unit of 1 KiB.
    pub fn new(bytes: usize) -> Arc<Self> {
        let limit = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1);
        Arc::new(Self { units: Arc::new(Semaphore::new(limit as usize)), limit })
    }

    /// Waits until `bytes` fit. What is charged must be able to go away by itself: never wait for a second charge
    /// while what the first one holds cannot be written without it.
    pub async fn reserve(&self, bytes: usize) -> Charge {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.limit);
        // The semaphore is never closed, so acquiring cannot fail; an absent permit charges nothing.
        Charge { permit: Arc::clone(&self.units).acquire_many_owned(units).await.ok(), bytes }
    }

    /// Bytes charged now, rounded up to units.
    pub fn used(&self) -> usize {
        (self.limit as usize - self.units.available_permits()) * UNIT
    }

    /// The whole budget in bytes.
    pub fn limit(&self) -> usize {
        self.limit as usize * UNIT
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug, Default)]
pub struct Charge {
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Charge {
    /// Charges nothing: for sources whose memory is not ours to account for.
    pub fn none() -> Self {
        Self::default()
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what lies above `bytes`: the answer was smaller than what had been reserved for it.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.bytes = self.bytes.min(bytes);
        if let Some(permit) = &mut self.permit {
            let surplus = permit.num_permits().saturating_sub(self.bytes.div_ceil(UNIT));
            drop(permit.split(surplus));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn what_is_dropped_is_given_back() {
        let budget = Budget::new(10 * UNIT);
        let mut charge = budget.reserve(4 * UNIT).await;
        assert_eq!(budget.used(), 4 * UNIT);
        charge.shrink_to(1);
        assert_eq!(budget.used(), UNIT);
        drop(charge);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn an_oversized_charge_enters_only_an_empty_budget() {
        let budget = Budget::new(10 * UNIT);
        let small = budget.reserve(1).await;
        let oversized = budget.reserve(100 * UNIT);
        tokio::pin!(oversized);
        assert!((&mut oversized).now_or_never().is_none());
        // It is next in line: a small one that would fit waits behind it.
        assert!(budget.reserve(1).now_or_never().is_none());
        drop(small);
        let charge = (&mut oversized).now_or_never().expect("the budget is empty");
        assert_eq!(budget.used(), budget.limit());
        drop(charge);
        assert_eq!(budget.used(), 0);
    }
}
