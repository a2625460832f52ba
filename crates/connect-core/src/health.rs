//! What `/livez` and `/readyz` tell.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// The main loop goes round every second, and waits for others up to a request's time-out.
const HANGING: Duration = Duration::from_secs(60);

/// Facts about this process that a probe may ask for. Nothing here looks downstream: a store that is down must not
/// get the pod killed.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    store_checked: AtomicBool,
    assigned: AtomicBool,
    draining: AtomicBool,
    partitions: AtomicUsize,
    /// Milliseconds after `started` at which the supervisor's loop last went round.
    tick: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            store_checked: AtomicBool::new(false),
            assigned: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            partitions: AtomicUsize::new(0),
            tick: AtomicU64::new(0),
        }
    }
}

impl Health {
    /// The store has been checked and can be used.
    pub(crate) fn set_store_checked(&self) {
        self.store_checked.store(true, Relaxed);
    }

    /// An assignment has been received, even an empty one.
    pub(crate) fn set_assigned(&self) {
        self.assigned.store(true, Relaxed);
    }

    /// The process is on its way out.
    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// How many partitions this process works on.
    pub(crate) fn set_partitions(&self, partitions: usize) {
        self.partitions.store(partitions, Relaxed);
    }

    /// The supervisor's loop went round.
    pub(crate) fn tick(&self) {
        self.tick.store(self.started.elapsed().as_millis() as u64, Relaxed);
    }

    /// How many partitions this process works on.
    pub fn partitions(&self) -> usize {
        self.partitions.load(Relaxed)
    }

    /// Does a work that may wait long for others, and ticks meanwhile: waiting is not hanging.
    pub(crate) async fn ticking<T>(&self, work: impl Future<Output = T>) -> T {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    /// `Ok` while the loops of this process go round. A drain has a deadline of its own.
    ///
    /// # Errors
    /// A sentence for the probe's answer.
    pub fn alive(&self) -> Result<(), String> {
        let silent = self.started.elapsed().saturating_sub(Duration::from_millis(self.tick.load(Relaxed)));
        if silent < HANGING || self.draining.load(Relaxed) {
            return Ok(());
        }
        Err(format!("the main loop has not gone round for {} s: it hangs", silent.as_secs()))
    }

    /// `Ok` when the process is ready, else what is missing.
    ///
    /// # Errors
    /// A sentence for the probe's answer.
    pub fn ready(&self) -> Result<(), &'static str> {
        match () {
            () if self.draining.load(Relaxed) => Err("draining"),
            () if !self.store_checked.load(Relaxed) => Err("the store has not answered its check yet"),
            () if !self.assigned.load(Relaxed) => Err("no assignment of partitions received yet"),
            () => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_lives_while_it_ticks_or_drains() {
        let health = Health::default();
        health.ticking(tokio::time::sleep(10 * HANGING)).await;
        assert_eq!(health.alive(), Ok(()), "waiting for others is not hanging");
        tokio::time::advance(2 * HANGING).await;
        assert!(health.alive().expect_err("nothing ticked").contains("hangs"));
        health.set_draining();
        assert_eq!(health.alive(), Ok(()));
    }

    #[test]
    fn readiness_names_what_is_missing() {
        let health = Health::default();
        assert!(health.ready().expect_err("nothing happened").contains("store"));
        health.set_store_checked();
        assert!(health.ready().expect_err("not assigned").contains("assignment"));
        health.set_assigned();
        assert_eq!(health.ready(), Ok(()));
        health.set_draining();
        assert_eq!(health.ready(), Err("draining"));
    }
}
