//! `CONNECT_RATE`: so many records a second and no more, over all partitions of the process.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Hands out time to batches, in the order in which they ask. A batch passes as soon as those before it have used up
/// their share, so a single batch larger than a second's worth is not cut: it only delays what follows.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: Option<u32>,
    free_at: Mutex<Option<Instant>>,
}

impl Rate {
    pub(crate) fn new(per_second: Option<u32>) -> Self {
        Self { per_second, free_at: Mutex::new(None) }
    }

    /// Waits until `records` may be written.
    pub(crate) async fn take(&self, records: usize) {
        let Some(per_second) = self.per_second else { return };
        let turn = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let turn = free_at.map_or(now, |free_at| free_at.max(now));
            *free_at = Some(turn + Duration::from_secs_f64(records as f64 / f64::from(per_second.max(1))));
            turn
        };
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn batches_pass_at_the_rate() {
        let rate = Rate::new(Some(100));
        let start = Instant::now();
        for _ in 0..11 {
            rate.take(50).await;
        }
        let elapsed = start.elapsed();
        assert!((Duration::from_secs(5)..Duration::from_millis(5_100)).contains(&elapsed), "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_is_no_limit() {
        let start = Instant::now();
        Rate::new(None).take(1_000_000).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
