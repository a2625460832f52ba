//! Writes the documents of one batch: a few workers side by side, each one document after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use connect_core::{Item, SinkError, Verdict};
use couchbase_core::agent::Agent;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::Guard;
use crate::errors::Failure;
use crate::guard::Source;
use crate::op::Op;
use crate::sequence::Sequence;
use crate::write::{Alarm, Writer};

/// A batch while it is written.
pub(crate) struct Work<'a> {
    pub writer: &'a Writer,
    pub guard: Guard,
    pub in_flight: Arc<Semaphore>,
    pub agent: &'a Agent,
    pub items: &'a [Item<Op>],
    pub sequence: Sequence,
    pub source: Arc<Source>,
    /// Nothing is begun afterwards.
    pub deadline: Instant,
    /// Place of the next document in the sequence's heads.
    pub next: AtomicUsize,
}

/// What a worker did.
#[derive(Default)]
pub(crate) struct Done {
    /// Items.
    pub settled: usize,
    pub exceptions: Vec<(usize, Verdict)>,
    /// The first error that may pass.
    pub failed: Option<SinkError>,
}

impl Work<'_> {
    /// Writes one document after the other until none is left.
    ///
    /// # Errors
    /// What a person must mend.
    pub async fn run(&self) -> Result<Done, SinkError> {
        let mut done = Done::default();
        let mut alarm = Alarm::new(self.writer.timeout);
        while let Some(head) = self.sequence.heads.get(self.next.fetch_add(1, Relaxed)) {
            self.document(*head, &mut alarm, &mut done).await?;
        }
        Ok(done)
    }

    /// Writes the items of one document, one after the other, up to the first that fails or is rejected.
    async fn document(&self, head: usize, alarm: &mut Alarm, done: &mut Done) -> Result<(), SinkError> {
        let mut stopped = false;
        for index in self.sequence.from(head) {
            if stopped || Instant::now() >= self.deadline {
                // The document would remember this later record, and the earlier one would count as superseded once it can
                // be written.
                done.exceptions.push((index, Verdict::Retry));
                continue;
            }
            let item = &self.items[index];
            let verdict = match self.item(item, alarm).await {
                Ok(None) if expired(&item.op) => Some(Verdict::Expired),
                Ok(verdict) => verdict,
                Err(Failure::Rejected(rejection)) => Some(Verdict::Rejected(rejection)),
                Err(Failure::Error(error @ SinkError::Fatal(_))) => return Err(error),
                Err(Failure::Error(error)) => {
                    done.failed.get_or_insert(error);
                    Some(Verdict::Retry)
                }
                Err(Failure::Absent | Failure::Conflict) => {
                    let message = "a document was changed by others meanwhile";
                    done.failed.get_or_insert_with(|| SinkError::transient("contention", message));
                    Some(Verdict::Retry)
                }
            };
            stopped = matches!(verdict, Some(Verdict::Retry | Verdict::Rejected(_)));
            if verdict != Some(Verdict::Retry) {
                done.settled += 1;
            }
            done.exceptions.extend(verdict.map(|verdict| (index, verdict)));
        }
        Ok(())
    }

    async fn item(&self, item: &Item<Op>, alarm: &mut Alarm) -> Result<Option<Verdict>, Failure> {
        // The semaphore is never closed.
        let _permit = self.in_flight.acquire().await;
        match self.guard {
            Guard::On => self.writer.guarded(self.agent, &item.op, item.offset, &self.source, alarm).await,
            Guard::Off => self.writer.plain(self.agent, &item.op, alarm).await,
        }
    }
}

/// Whether the document is gone the moment it is written.
fn expired(op: &Op) -> bool {
    let Some(expiry) = op.expiry else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    u64::from(expiry) <= now
}
