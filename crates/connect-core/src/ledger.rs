//! The account of a partition: every record read is found again under exactly one outcome.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{counter, gauge};
use tokio::time::Instant;
use tracing::{error, info};

use crate::record::TopicPartition;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is durable in the store.
    Written,
    /// The store already held it or something newer.
    Superseded,
    /// The sink or a setting left it out.
    Filtered,
    /// It was written with an expiry in the past: the store ends without it.
    Expired,
    /// It was rejected and `CONNECT_DEAD_LETTERS=drop`.
    Dropped,
    /// It was rejected and is durable in the dead-letter topic.
    DeadLettered,
    /// It was given back unwritten, when the partition was taken away or set back: whoever reads on reads it again.
    Returned,
}

impl Fate {
    /// Every fate, in the order of the counters.
    pub const ALL: [Self; 7] = [
        Self::Written,
        Self::Superseded,
        Self::Filtered,
        Self::Expired,
        Self::Dropped,
        Self::DeadLettered,
        Self::Returned,
    ];

    /// The `outcome` label of `connect_records_total`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Superseded => "superseded",
            Self::Filtered => "filtered",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
            Self::DeadLettered => "dead_lettered",
            Self::Returned => "returned",
        }
    }
}

/// Where an offset is not known yet.
const UNKNOWN: i64 = -1;

/// Counts and positions of one partition for the life of the process. The hot path touches only these atomics; a scrape publishes them.
#[derive(Debug)]
pub struct Ledger {
    started: Instant,
    /// Whether the partition is ours now. Only then it has positions to show: another process shows them else.
    ours: AtomicBool,
    read: AtomicU64,
    bytes: AtomicU64,
    skipped: AtomicU64,
    fates: [AtomicU64; Fate::ALL.len()],
    durable: AtomicI64,
    committed: AtomicI64,
    last_stable_offset: AtomicI64,
    high_watermark: AtomicI64,
    /// Milliseconds after `started` at which the partition last moved or had nothing to do.
    progress: AtomicU64,
}

impl Ledger {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            ours: AtomicBool::new(false),
            read: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            fates: Default::default(),
            durable: AtomicI64::new(UNKNOWN),
            committed: AtomicI64::new(UNKNOWN),
            last_stable_offset: AtomicI64::new(UNKNOWN),
            high_watermark: AtomicI64::new(UNKNOWN),
            progress: AtomicU64::new(0),
        }
    }

    /// A record is in hand from here on until it meets its fate.
    pub fn read(&self, records: u64, bytes: u64) {
        self.read.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Records met their fate.
    pub fn settle(&self, fate: Fate, records: u64) {
        // Who sees the fate sees that the record was read.
        self.fates[fate as usize].fetch_add(records, Release);
    }

    /// Takes note of records that retention deleted before they were read.
    pub fn skip(&self, records: u64) {
        self.skipped.fetch_add(records, Relaxed);
    }

    /// Records that retention deleted before they were read.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    /// How many records met this fate.
    pub fn count(&self, fate: Fate) -> u64 {
        self.fates[fate as usize].load(Acquire)
    }

    /// Records read.
    pub fn records_read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Records read whose fate is open.
    pub fn in_flight(&self) -> u64 {
        let settled: u64 = Fate::ALL.iter().map(|fate| self.count(*fate)).sum();
        self.read.load(Relaxed).saturating_sub(settled)
    }

    /// Everything below `offset` is durable in the store, or a dead letter.
    pub fn advance(&self, offset: i64) {
        // A partition that is taken up again and again at one place does not move.
        if self.durable.swap(offset, Relaxed) != offset {
            self.progress();
        }
    }

    /// The offset below which everything is durable; `None` before the partition was taken up.
    pub fn durable(&self) -> Option<i64> {
        known(&self.durable)
    }

    /// The partition is ours from now on: what was known in an earlier life no longer counts.
    pub fn take_up(&self) {
        self.give_up();
        self.ours.store(true, Relaxed);
        self.progress();
    }

    /// The partition is no longer ours: it has no positions of ours, and cannot stall. A task of it that is being aborted may
    /// still move them.
    pub fn give_up(&self) {
        self.ours.store(false, Relaxed);
        for offset in [&self.durable, &self.committed, &self.last_stable_offset, &self.high_watermark] {
            offset.store(UNKNOWN, Relaxed);
        }
    }

    /// Kafka holds this offset.
    pub fn set_committed(&self, offset: i64) {
        self.committed.store(offset, Relaxed);
    }

    /// The offset that Kafka holds, as far as this process knows.
    pub fn committed(&self) -> Option<i64> {
        known(&self.committed)
    }

    /// What the broker said about the partition's end. With nothing left to read the partition is not stalled.
    pub fn observe(&self, last_stable_offset: i64, high_watermark: i64) {
        self.last_stable_offset.store(last_stable_offset, Relaxed);
        self.high_watermark.store(high_watermark, Relaxed);
        if self.durable().is_some_and(|durable| durable >= last_stable_offset) {
            self.progress();
        }
    }

    /// Records behind the durable position, `None` while either end is unknown or the partition is not ours.
    pub fn lag(&self) -> Option<i64> {
        self.ours.load(Relaxed).then_some(())?;
        Some((known(&self.high_watermark)? - self.durable()?).max(0))
    }

    /// Seconds since the last progress while records up to the last stable offset wait; `None` while the partition is not ours.
    pub fn stalled_seconds(&self) -> Option<f64> {
        self.ours.load(Relaxed).then_some(())?;
        if self.durable().is_some_and(|durable| durable >= self.last_stable_offset.load(Relaxed)) {
            return Some(0.0);
        }
        let now = self.started.elapsed().as_millis() as u64;
        Some(now.saturating_sub(self.progress.load(Relaxed)) as f64 / 1000.0)
    }

    /// Where the partition stands for all to see; `None` while it is not ours.
    fn shown_offset(&self) -> Option<i64> {
        self.ours.load(Relaxed).then_some(())?;
        self.committed().or(self.durable())
    }

    fn progress(&self) {
        self.progress.store(self.started.elapsed().as_millis() as u64, Relaxed);
    }
}

fn known(offset: &AtomicI64) -> Option<i64> {
    Some(offset.load(Relaxed)).filter(|offset| *offset != UNKNOWN)
}

/// The ledgers of every partition that this process ever owned: counters never go back.
#[derive(Debug, Default)]
pub struct Ledgers {
    partitions: Mutex<BTreeMap<TopicPartition, Arc<Ledger>>>,
}

impl Ledgers {
    /// The ledger of a partition, made when it is new.
    pub fn of(&self, partition: &TopicPartition) -> Arc<Ledger> {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(partitions.entry(partition.clone()).or_insert_with(|| Arc::new(Ledger::new())))
    }

    /// Every ledger.
    pub fn all(&self) -> Vec<(TopicPartition, Arc<Ledger>)> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.iter().map(|(partition, ledger)| (partition.clone(), Arc::clone(ledger))).collect()
    }

    /// Tells what became of the records of this run: the metrics end with the process.
    pub fn conclude(&self) {
        let ledgers = self.all();
        for (partition, ledger) in ledgers.iter().filter(|(_, ledger)| ledger.in_flight() != 0) {
            let (read, open) = (ledger.records_read(), ledger.in_flight());
            error!(%partition, read, open, "the account does not add up; this is a bug, please report it");
        }
        let count = |fate: Fate| ledgers.iter().map(|(_, ledger)| ledger.count(fate)).sum::<u64>();
        info!(
            read = ledgers.iter().map(|(_, ledger)| ledger.records_read()).sum::<u64>(),
            written = count(Fate::Written),
            superseded = count(Fate::Superseded),
            filtered = count(Fate::Filtered),
            expired = count(Fate::Expired),
            dropped = count(Fate::Dropped),
            dead_lettered = count(Fate::DeadLettered),
            returned = count(Fate::Returned),
            "what became of the records"
        );
    }

    /// Hands the figures to the installed metrics recorder: called once a scrape.
    pub fn publish(&self) {
        let mut bytes = 0;
        for (partition, ledger) in self.all() {
            let labels = [("topic", partition.topic.to_string()), ("partition", partition.partition.to_string())];
            // Before what was read: a scrape never shows more fates than records.
            for fate in Fate::ALL {
                let [topic, number] = labels.clone();
                let labels = [topic, number, ("outcome", fate.label().to_owned())];
                counter!("connect_records_total", &labels).absolute(ledger.count(fate));
            }
            counter!("connect_records_read_total", &labels).absolute(ledger.read.load(Relaxed));
            counter!("connect_records_skipped_total", &labels).absolute(ledger.skipped.load(Relaxed));
            // NaN is a gauge without a value: a scrape leaves it out.
            gauge!("connect_lag", &labels).set(ledger.lag().map_or(f64::NAN, |lag| lag as f64));
            gauge!("connect_committed_offset", &labels)
                .set(ledger.shown_offset().map_or(f64::NAN, |offset| offset as f64));
            gauge!("connect_stalled_seconds", &labels).set(ledger.stalled_seconds().unwrap_or(f64::NAN));
            bytes += ledger.bytes.load(Relaxed);
        }
        counter!("connect_bytes_read_total").absolute(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_partition_stalls_only_while_records_wait() {
        let ledger = Ledger::new();
        ledger.take_up();
        ledger.advance(5);
        ledger.observe(5, 9);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(ledger.stalled_seconds(), Some(0.0), "an open transaction is not our stall");
        ledger.observe(6, 9);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(ledger.stalled_seconds() >= Some(7.0));
        assert_eq!(ledger.lag(), Some(4));
        ledger.advance(6);
        assert_eq!(ledger.stalled_seconds(), Some(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_is_not_ours_has_nothing_to_show() {
        let ledger = Ledger::new();
        ledger.take_up();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(ledger.stalled_seconds() >= Some(60.0), "ours, and not even its position is known");
        ledger.give_up();
        // The last breath of its task.
        ledger.advance(7);
        ledger.observe(8, 9);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((ledger.stalled_seconds(), ledger.lag(), ledger.shown_offset()), (None, None, None));
    }

    #[test]
    fn every_record_is_in_flight_until_it_meets_its_fate() {
        let ledger = Ledger::new();
        ledger.read(Fate::ALL.len() as u64 + 1, 100);
        for fate in Fate::ALL {
            ledger.settle(fate, 1);
            assert_eq!(ledger.count(fate), 1);
        }
        assert_eq!(ledger.in_flight(), 1);
    }
}
