//! What `/livez` and `/readyz` tell.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

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

    /// How long ago the supervisor's loop last went round.
    pub fn since_tick(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.tick.load(Relaxed)))
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
