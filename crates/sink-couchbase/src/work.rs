//! Writes the documents of one batch: a few workers side by side, each one document after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use connect_core::{Item, SinkError, Verdict};
use couchbase_core::agent::Agent;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::buckets::Links;
use crate::config::Guard;
use crate::errors::Failure;
use crate::expiry;
use crate::guard::Source;
use crate::op::Op;
use crate::sequence::Sequence;
use crate::write::{Alarm, Writer};

/// A batch while it is written.
pub(crate) struct Work<'a> {
    pub writer: &'a Writer,
    pub guard: Guard,
    pub in_flight: Arc<Semaphore>,
    pub links: &'a Links,
    pub items: &'a [Item<Op>],
    pub sequence: Sequence,
    pub source: Arc<Source>,
    /// Nothing is begun afterwards.
    pub deadline: Instant,
    /// Nothing is waited for afterwards.
    pub end: Instant,
    /// Place of the next document in the sequence's heads.
    pub next: AtomicUsize,
}

/// What a worker did.
#[derive(Default)]
pub(crate) struct Done {
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
        let mut alarm = Alarm::new(self.writer.timeout, self.end);
        while let Some(head) = self.sequence.heads.get(self.next.fetch_add(1, Relaxed)) {
            self.document(*head, &mut alarm, &mut done).await?;
        }
        Ok(done)
    }

    /// Writes the items of one document, one after the other, up to the first that fails or is rejected.
    async fn document(&self, head: usize, alarm: &mut Alarm, done: &mut Done) -> Result<(), SinkError> {
        let link = self.links.of(&self.items[head].op);
        let agent = match &link.agent {
            Ok(agent) => agent,
            Err(error @ SinkError::Fatal(_)) => return Err(error.clone()),
            Err(error) => {
                done.failed.get_or_insert_with(|| error.clone());
                done.exceptions.extend(self.sequence.from(head).map(|index| (index, Verdict::Retry)));
                return Ok(());
            }
        };
        let (mut stopped, mut settled) = (false, 0);
        for index in self.sequence.from(head) {
            let place = if stopped { None } else { self.place().await };
            let Some(_place) = place else {
                // The document would remember this later record, and the earlier one would count as superseded once it can
                // be written.
                stopped = true;
                done.exceptions.push((index, Verdict::Retry));
                continue;
            };
            let item = &self.items[index];
            let verdict = match self.item(agent, item, alarm).await {
                Ok(None) if expiry::is_past(item.op.ends) => Some(Verdict::Expired),
                Ok(verdict) => verdict,
                Err(Failure::Rejected(rejection)) => Some(Verdict::Rejected(rejection)),
                Err(Failure::Error(error @ SinkError::Fatal(_))) => return Err(error),
                Err(Failure::Error(error)) => {
                    link.failed(&error);
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
                settled += 1;
            }
            done.exceptions.extend(verdict.map(|verdict| (index, verdict)));
        }
        link.settled(settled);
        Ok(())
    }

    /// A place among the requests in flight; `None` when there is no time left to begin with another one.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        let place = match self.in_flight.try_acquire() {
            Ok(place) => place,
            Err(_) => timeout_at(self.deadline, self.in_flight.acquire()).await.ok()?.ok()?,
        };
        (Instant::now() < self.deadline).then_some(place)
    }

    async fn item(&self, agent: &Agent, item: &Item<Op>, alarm: &mut Alarm) -> Result<Option<Verdict>, Failure> {
        match self.guard {
            Guard::On => self.writer.guarded(agent, &item.op, item.offset, &self.source, alarm).await,
            Guard::Off => self.writer.plain(agent, &item.op, alarm).await,
        }
    }
}
