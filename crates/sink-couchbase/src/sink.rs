//! Writes batches: different documents side by side, the items of one in order.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use connect_core::{Assigned, Batch, Outcome, Record, Rejection, Replay, Resume, Sink, SinkError};
use futures::stream::{FuturesUnordered, TryStreamExt};
use tokio::sync::Semaphore;
use tokio::task::unconstrained;
use tokio::time::Instant;
use tracing::debug;

use crate::config::{CouchbaseConfig, Guard};
use crate::connection::{Briefly, Connection, Way};
use crate::guard::Sources;
use crate::op::{Keyspace, Mapping, Op};
use crate::sequence::Sequence;
use crate::work::{Done, Work};
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
    in_flight: Arc<Semaphore>,
    /// How long a write goes on to begin with items.
    begins_for: Duration,
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
            in_flight: Arc::new(Semaphore::new(most_in_flight)),
            accumulates: config.action.accumulates(),
            mapping: Mapping::new(config)?,
        })
    }

    /// The same in this epoch: what was written in a lower one is older, whatever its offsets.
    #[must_use]
    pub fn in_epoch(self, epoch: u16) -> Self {
        Self { sources: Sources::new(epoch), ..self }
    }
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
        // Many items of one document may take longer than the core waits for a write. What was done until then counts, and the
        // rest comes again; cut off by the core it would begin anew, and might never end.
        let deadline = Instant::now() + self.begins_for;
        let work = Work {
            writer: &self.writer,
            guard: self.guard,
            in_flight: Arc::clone(&self.in_flight),
            agent: &agent,
            items: &batch.items,
            sequence: Sequence::new(&batch.items),
            source,
            deadline,
            next: AtomicUsize::new(0),
        };
        // Each batch that is being written holds the semaphore, and so does the sink. More workers than it lets through would only
        // queue there: four batches of 256 workers each wrote 8 % less.
        let batches = Arc::strong_count(&self.in_flight) - 1;
        let workers = (self.most_in_flight / batches).clamp(1, work.sequence.heads.len().max(1));
        let running: FuturesUnordered<_> = (0..workers).map(|_| work.run()).collect();
        // In this task and not in tasks of their own: they would wait for each other at the client's lock. One batch writes 150,000
        // documents a second so, four side by side 130,000, and a write that is dropped has ended.
        //
        // The runtime has a task give way after so many answers, and means those that are ready to look not so: every worker
        // would be asked in vain, again and again. This task gives way anyhow, whenever all workers wait for the network.
        let dones: Vec<Done> = unconstrained(running.try_collect()).await?;
        let mut outcome = Outcome::written();
        let mut failed: Option<SinkError> = None;
        let mut settled = 0;
        for done in dones {
            settled += done.settled;
            failed = failed.or(done.failed);
            done.exceptions.into_iter().for_each(|(index, verdict)| outcome.set(index, verdict));
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
