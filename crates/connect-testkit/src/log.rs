//! A partitioned log in memory, and a source that reads it as from a moody broker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connect_core::{Budget, Fetched, Position, Record, Source, SourceError, TopicPartition};
use tokio::time::sleep;

use crate::dice::{Dice, Trouble};
use crate::met::Met;

/// How long a fetch waits when there is nothing.
const LONG_POLL: Duration = Duration::from_millis(500);

/// One partition's content.
#[derive(Clone, Debug, Default)]
struct Partition {
    records: BTreeMap<i64, Record>,
    /// What compaction and retention took away.
    removed: BTreeMap<i64, Record>,
    start: i64,
    end: i64,
    /// Offset of the first record of a transaction that is not decided.
    open: Option<i64>,
}

impl Partition {
    fn last_stable_offset(&self) -> i64 {
        self.open.unwrap_or(self.end)
    }
}

/// A partitioned log. Its clones share one log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    partitions: Arc<Mutex<BTreeMap<TopicPartition, Partition>>>,
}

impl Log {
    /// A log of empty partitions.
    pub fn new(partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        let log = Self::default();
        log.lock().extend(partitions.into_iter().map(|partition| (partition, Partition::default())));
        log
    }

    /// Appends a record; its topic, partition and offset are set here. Its offset.
    pub fn append(&self, partition: &TopicPartition, record: Record) -> i64 {
        self.with(partition, |log| {
            let offset = log.end;
            let (topic, partition) = (Arc::clone(&partition.topic), partition.partition);
            log.records.insert(offset, Record { topic, partition, offset, ..record });
            log.end += 1;
            offset
        })
    }

    /// Appends `offsets` offsets without a record: control records, aborted records, what compaction removed.
    pub fn append_gap(&self, partition: &TopicPartition, offsets: i64) {
        self.with(partition, |log| log.end += offsets);
    }

    /// What is appended from here on belongs to a transaction, until [`decide`](Self::decide).
    pub fn begin(&self, partition: &TopicPartition) {
        self.with(partition, |log| log.open = log.open.or(Some(log.end)));
    }

    /// Decides the open transaction: commits it, or takes its records away. A control record follows.
    pub fn decide(&self, partition: &TopicPartition, commit: bool) {
        self.with(partition, |log| {
            let Some(first) = log.open.take() else { return };
            if !commit {
                log.records.retain(|offset, _| *offset < first);
            }
            log.end += 1;
        });
    }

    /// Removes every record below the last stable offset that a later one of the same key replaces there. Only records
    /// that are `effective` replace others.
    pub fn compact(&self, partition: &TopicPartition, effective: impl Fn(&Record) -> bool) {
        self.with(partition, |log| {
            let stable = log.last_stable_offset();
            let stable_records = log.records.range(..stable).filter(|(_, record)| effective(record));
            let last: BTreeMap<_, _> = stable_records.map(|(offset, record)| (record.key.clone(), *offset)).collect();
            let kept = |offset: &i64, record: &Record| *offset >= stable || last.get(&record.key) <= Some(offset);
            let replaced = log.records.iter().filter(|(offset, record)| !kept(offset, record));
            log.removed.extend(replaced.map(|(offset, record)| (*offset, record.clone())));
            log.records.retain(|offset, record| kept(offset, record));
        });
    }

    /// Deletes what lies below `offset`, as retention does.
    pub fn delete_below(&self, partition: &TopicPartition, offset: i64) {
        self.with(partition, |log| {
            log.start = offset.clamp(log.start, log.end);
            let kept = log.records.split_off(&log.start);
            log.removed.append(&mut std::mem::replace(&mut log.records, kept));
        });
    }

    /// The offset behind the last one.
    pub fn end(&self, partition: &TopicPartition) -> i64 {
        self.with(partition, |log| log.end)
    }

    /// Every partition.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.lock().keys().cloned().collect()
    }

    /// The records that could once be read and that compaction or retention took away, in offset order.
    pub fn removed(&self, partition: &TopicPartition) -> Vec<Record> {
        self.with(partition, |log| log.removed.values().cloned().collect())
    }

    /// The offset of the oldest record that may be there, and the offset below which every record may be read.
    pub fn bounds(&self, partition: &TopicPartition) -> (i64, i64) {
        self.with(partition, |log| (log.start, log.last_stable_offset()))
    }

    /// The records that may be read now, in offset order.
    pub fn records(&self, partition: &TopicPartition) -> Vec<Record> {
        self.with(partition, |log| log.records.range(..log.last_stable_offset()).map(|(_, r)| r.clone()).collect())
    }

    fn with<T>(&self, partition: &TopicPartition, act: impl FnOnce(&mut Partition) -> T) -> T {
        act(self.lock().entry(partition.clone()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Partition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a [`Log`] as one process does: answers of any size, slow ones, and errors that pass.
#[derive(Debug)]
pub struct LogSource {
    log: Log,
    budget: Arc<Budget>,
    dice: Dice,
    trouble: Arc<Trouble>,
}

impl LogSource {
    /// A source that charges what it reads to `budget`.
    pub fn new(log: Log, budget: Arc<Budget>, dice: Dice, trouble: Arc<Trouble>) -> Self {
        Self { log, budget, dice, trouble }
    }

    async fn weather(&self) -> Result<(), SourceError> {
        if !self.trouble.strikes(&self.dice) {
            tokio::task::yield_now().await;
            return Ok(());
        }
        sleep(self.dice.time(Duration::from_secs(5))).await;
        if self.dice.percent(50) {
            return Ok(());
        }
        self.trouble.met(Met::ReadFailed);
        Err(SourceError::transient("connection", "the broker is gone"))
    }

    fn read(&self, partition: &TopicPartition, offset: i64) -> Result<Option<Fetched>, SourceError> {
        // Down to a single record: every boundary of batches comes up.
        let most = self.dice.between(1, 20) as usize;
        self.log.with(partition, |log| {
            if !(log.start..=log.end).contains(&offset) {
                self.trouble.met(Met::OutOfRange);
                return Err(SourceError::OutOfRange { earliest: log.start, latest: log.end });
            }
            let stable = log.last_stable_offset();
            if offset >= stable {
                if stable < log.end {
                    self.trouble.met(Met::TransactionWaited);
                }
                return Ok(None);
            }
            let records: Vec<_> =
                log.records.range(offset..stable).take(most).map(|(_, record)| record.clone()).collect();
            let full = records.len() == most;
            // With fewer records than asked for, nothing but gaps lies between the last of them and the stable end.
            let next = records.last().filter(|_| full).map_or(stable, |record| record.offset + 1);
            let charge = connect_core::Charge::none();
            Ok(Some(Fetched { records, next, last_stable_offset: stable, high_watermark: log.end, charge }))
        })
    }
}

impl Source for LogSource {
    async fn fetch(&self, partition: &TopicPartition, offset: i64) -> Result<Fetched, SourceError> {
        self.weather().await?;
        self.trouble.step().await;
        let fetched = match self.read(partition, offset)? {
            Some(fetched) => Some(fetched),
            None => {
                sleep(LONG_POLL).await;
                self.read(partition, offset)?
            }
        };
        let Some(mut fetched) = fetched else {
            let (stable, end) = self.log.with(partition, |log| (log.last_stable_offset(), log.end));
            let charge = connect_core::Charge::none();
            let records = Vec::new();
            return Ok(Fetched { records, next: offset, last_stable_offset: stable, high_watermark: end, charge });
        };
        let charge = self.budget.reserve(fetched.records.iter().map(Record::bytes).sum());
        tokio::pin!(charge);
        fetched.charge = tokio::select! {
            biased;
            charge = &mut charge => charge,
            () = std::future::ready(()) => {
                self.trouble.met(Met::MemoryFull);
                charge.await
            }
        };
        Ok(fetched)
    }

    async fn offset(&self, partition: &TopicPartition, position: Position) -> Result<i64, SourceError> {
        self.weather().await?;
        Ok(self.log.with(partition, |log| match position {
            Position::Earliest => log.start,
            Position::Latest => log.last_stable_offset(),
            Position::Timestamp(timestamp) => {
                let mut later = log.records.iter().filter(|(_, record)| record.timestamp >= timestamp);
                later.next().map_or(log.last_stable_offset(), |(offset, _)| *offset)
            }
        }))
    }
}
