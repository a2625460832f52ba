//! Writes batches: different documents side by side, the items of one in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use connect_core::{Assigned, Batch, Context, Outcome, Record, Rejection, Replay, Resume, Sink, SinkError};
use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, TryStreamExt};
use tokio::sync::Semaphore;
use tokio::task::unconstrained;
use tokio::time::Instant;
use tracing::debug;

use crate::buckets::{Buckets, Link};
use crate::config::{CouchbaseConfig, Guard};
use crate::connection::{Briefly, Way};
use crate::guard::Sources;
use crate::keyspace::Keyspace;
use crate::op::{Mapping, Op};
use crate::sequence::Sequence;
use crate::work::{Done, Work};
use crate::write::Writer;

/// Records into Couchbase.
pub struct CouchbaseSink {
    mapping: Mapping,
    buckets: Buckets,
    writer: Writer,
    guard: Guard,
    sources: Sources,
    accumulates: bool,
    most_in_flight: usize,
    in_flight: Arc<Semaphore>,
    /// Of one answer; and so long a write goes on to begin with items.
    timeout: Duration,
    write_timeout: Duration,
}

impl CouchbaseSink {
    /// A sink with these settings. Connects when it is first asked to. What was written in an epoch below the context's is older,
    /// whatever its offsets.
    ///
    /// # Errors
    /// What is wrong with the settings or the files that they name.
    pub fn new(config: CouchbaseConfig, context: &Context) -> Result<Self, String> {
        let write_timeout = context.settings.write_timeout;
        // A write connects, begins with one document after the other, and waits for the last answer: each may take that long.
        let longest = write_timeout / 3;
        let timeout = config.timeout.unwrap_or(longest);
        if timeout > longest {
            return Err(format!(
                "CONNECT_COUCHBASE_TIMEOUT={timeout:?} is longer than a third of CONNECT_WRITE_TIMEOUT={write_timeout:?}: no \
                 write would live to see its last answer"
            ));
        }
        let most_in_flight = config.max_in_flight.get().min(Semaphore::MAX_PERMITS);
        let (way, writer) = (Way::new(&config, timeout)?, Writer::new(&config, timeout, Arc::new(Briefly)));
        let (guard, accumulates) = (config.guard, config.action.accumulates());
        let mapping = Mapping::new(config)?;
        Ok(Self {
            buckets: Buckets::new(way, mapping.homes().filter_map(|home| home.bucket().cloned()).collect()),
            mapping,
            writer,
            guard,
            sources: Sources::new(context.epoch),
            accumulates,
            most_in_flight,
            in_flight: Arc::new(Semaphore::new(most_in_flight)),
            timeout,
            write_timeout,
        })
    }

    /// Looks at one bucket, and at what of it the settings name.
    async fn check_bucket(&self, bucket: &Arc<str>, keyspaces: &[Arc<Keyspace>]) -> Result<(), SinkError> {
        let connection = self.buckets.of(bucket);
        connection.check(keyspaces).await?;
        let agent = connection.agent().await?;
        for keyspace in keyspaces {
            self.writer.check_rights(&agent, keyspace, self.guard).await?;
        }
        Ok(())
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
        let end = Instant::now() + self.write_timeout;
        let Some(links) = self.buckets.links(&batch.items).await else { return Ok(Outcome::written()) };
        let source = self.sources.of(&batch.source);
        // Many items of one document may take longer than the core waits for a write. What was done until then counts, and the
        // rest comes again; cut off by the core it would begin anew, and might never end.
        let deadline = (Instant::now() + self.timeout).min(end - self.timeout);
        let work = Work {
            writer: &self.writer,
            guard: self.guard,
            in_flight: Arc::clone(&self.in_flight),
            links: &links,
            items: &batch.items,
            sequence: Sequence::new(&batch.items),
            source,
            deadline,
            end,
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
        for done in dones {
            failed = failed.or(done.failed);
            done.exceptions.into_iter().for_each(|(index, verdict)| outcome.set(index, verdict));
        }
        links.iter().for_each(Link::end);
        match failed {
            // Nothing moved, so the reason is told.
            Some(error) if !links.iter().any(Link::moved) => Err(error),
            Some(error) => {
                debug!(%error, partition = %batch.source, "a part of a batch is sent again");
                Ok(outcome)
            }
            None => Ok(outcome),
        }
    }

    async fn check(&self) -> Result<(), SinkError> {
        let mut buckets: BTreeMap<&Arc<str>, Vec<Arc<Keyspace>>> = BTreeMap::new();
        for home in self.mapping.homes() {
            if let Some(bucket) = home.bucket() {
                buckets.entry(bucket).or_default().extend(home.fixed().cloned());
            }
        }
        if buckets.is_empty() {
            return self.buckets.check().await;
        }
        try_join_all(buckets.iter().map(|(bucket, keyspaces)| self.check_bucket(bucket, keyspaces))).await?;
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
