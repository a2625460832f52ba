//! Writes batches: different documents side by side, the items of one in order.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use connect_core::{Assigned, Batch, Item, Outcome, Record, Rejection, Replay, Resume, Sink, SinkError, Verdict};
use couchbase_core::agent::Agent;
use futures::stream::{self, StreamExt};
use tokio::sync::Semaphore;
use tokio::task::unconstrained;
use tokio::time::Instant;
use tracing::debug;

use crate::config::{CouchbaseConfig, Guard};
use crate::connection::{Briefly, Connection, Way};
use crate::errors::Failure;
use crate::guard::{Source, Sources};
use crate::op::{Keyspace, Mapping, Op};
use crate::sequence::Sequence;
use crate::write::Writer;

/// Records into Couchbase.
pub struct CouchbaseSink {
    mapping: Mapping,
    connection: Connection,
    writer: Writer,
    guard: Guard,
    sources: Sources,
    accumulates: bool,
    most_in_flight: usize,
    in_flight: Semaphore,
    /// How long a write goes on to begin with items.
    begins_for: Duration,
}

/// What became of one item.
enum End {
    Settled(Option<Verdict>),
    Failed(SinkError),
    /// Not begun, because the time was up or an earlier item of the same document failed or was rejected: the document would
    /// remember this later record, and the earlier one would count as superseded once it can be written.
    Left,
}

impl CouchbaseSink {
    /// A sink with these settings. Connects when it is first asked to.
    ///
    /// # Errors
    /// What is wrong with the settings or the files that they name.
    pub fn new(config: CouchbaseConfig) -> Result<Self, String> {
        let most_in_flight = config.max_in_flight.get().min(Semaphore::MAX_PERMITS);
        Ok(Self {
            connection: Connection::new(Way::new(&config)?),
            writer: Writer::new(&config, Arc::new(Briefly)),
            guard: config.guard,
            sources: Sources::new(0),
            begins_for: config.timeout,
            most_in_flight,
            in_flight: Semaphore::new(most_in_flight),
            accumulates: config.action.accumulates(),
            mapping: Mapping::new(config)?,
        })
    }

    /// The same in this epoch: what was written in a lower one is older, whatever its offsets.
    #[must_use]
    pub fn in_epoch(self, epoch: u16) -> Self {
        Self { sources: Sources::new(epoch), ..self }
    }

    /// Writes the items of one document, one after the other, up to the first that fails or is rejected.
    async fn write_document(
        &self,
        agent: &Agent,
        items: &[Item<Op>],
        indexes: impl Iterator<Item = usize>,
        source: &Arc<Source>,
        deadline: Instant,
    ) -> Vec<(usize, End)> {
        let mut ends = Vec::with_capacity(1);
        let mut stopped = false;
        for index in indexes {
            if stopped || Instant::now() >= deadline {
                ends.push((index, End::Left));
                continue;
            }
            let item = &items[index];
            let end = match self.write_item(agent, item, source).await {
                Ok(None) if expired(&item.op) => End::Settled(Some(Verdict::Expired)),
                Ok(verdict) => End::Settled(verdict),
                Err(Failure::Rejected(rejection)) => End::Settled(Some(Verdict::Rejected(rejection))),
                Err(Failure::Error(error)) => End::Failed(error),
                Err(Failure::Absent | Failure::Conflict) => {
                    End::Failed(SinkError::transient("contention", "a document was changed by others meanwhile"))
                }
            };
            stopped = matches!(end, End::Failed(_) | End::Settled(Some(Verdict::Rejected(_))));
            ends.push((index, end));
        }
        ends
    }

    async fn write_item(
        &self,
        agent: &Agent,
        item: &Item<Op>,
        source: &Arc<Source>,
    ) -> Result<Option<Verdict>, Failure> {
        // The semaphore is never closed.
        let _permit = self.in_flight.acquire().await;
        match self.guard {
            Guard::On => self.writer.guarded(agent, &item.op, item.offset, source).await,
            Guard::Off => self.writer.plain(agent, &item.op).await,
        }
    }
}

/// Whether the document is gone the moment it is written.
fn expired(op: &Op) -> bool {
    let Some(expiry) = op.expiry else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    u64::from(expiry) <= now
}

impl Sink for CouchbaseSink {
    type Op = Op;

    fn prepare(&self, record: &Record) -> Result<Option<Op>, Rejection> {
        self.mapping.prepare(record)
    }

    fn target<'a>(&self, op: &'a Op) -> Option<&'a [u8]> {
        Some(&op.target)
    }

    async fn write(&self, batch: &Batch<Op>) -> Result<Outcome, SinkError> {
        let agent = self.connection.agent().await?;
        let source = self.sources.of(&batch.source);
        let sequence = Sequence::new(&batch.items);
        // Many items of one document may take longer than the core waits for a write. What was done until then counts, and the
        // rest comes again; cut off by the core it would begin anew, and might never end.
        let deadline = Instant::now() + self.begins_for;
        let documents = stream::iter(sequence.heads.iter().copied())
            .map(|head| self.write_document(&agent, &batch.items, sequence.from(head), &source, deadline));
        // The runtime has a task give way after so many answers, and means those that are ready to look not so: every document
        // that is left would be asked in vain, again and again. This task gives way anyhow, at each write to the network.
        let mut running = pin!(documents.buffer_unordered(self.most_in_flight));
        let mut outcome = Outcome::written();
        let mut failed: Option<SinkError> = None;
        let mut settled = 0;
        while let Some(ends) = unconstrained(running.next()).await {
            for (index, end) in ends {
                match end {
                    End::Settled(verdict) => {
                        settled += 1;
                        if let Some(verdict) = verdict {
                            outcome.set(index, verdict);
                        }
                    }
                    End::Failed(error @ SinkError::Fatal(_)) => return Err(error),
                    End::Failed(error) => {
                        failed.get_or_insert(error);
                        outcome.set(index, Verdict::Retry);
                    }
                    End::Left => outcome.set(index, Verdict::Retry),
                }
            }
        }
        if settled > 0 {
            self.connection.works();
        }
        match failed {
            // Nothing moved, so the reason is told.
            Some(error) if settled == 0 => {
                if matches!(error, SinkError::Transient { reason: "timeout" | "connection" | "no_node", .. }) {
                    self.connection.fails(&agent).await;
                }
                Err(error)
            }
            Some(error) => {
                debug!(%error, partition = %batch.source, "a part of a batch is sent again");
                Ok(outcome)
            }
            None => Ok(outcome),
        }
    }

    async fn check(&self) -> Result<(), SinkError> {
        let keyspaces: Vec<Keyspace> = self.mapping.keyspaces().cloned().collect();
        self.connection.check(&keyspaces).await?;
        let agent = self.connection.agent().await?;
        for keyspace in &keyspaces {
            self.writer.check_rights(&agent, keyspace, self.guard).await?;
        }
        Ok(())
    }

    async fn resume(&self, partition: &Assigned) -> Result<Resume, SinkError> {
        self.sources.take_up(partition);
        Ok(Resume::NotKept)
    }

    fn replay(&self) -> Replay {
        match self.guard {
            Guard::Off => Replay::Written,
            Guard::On => Replay::Superseded {
                instead: "another CONNECT_COUCHBASE_COLLECTION under a new CONNECT_NAME",
                accumulates: self.accumulates,
            },
        }
    }
}
