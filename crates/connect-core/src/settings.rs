//! What a person may choose about the way of the records, apart from any store.

use std::time::Duration;

/// Settings of the pipeline; `config` reads them from the environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `CONNECT_TOMBSTONES`.
    pub tombstones: Tombstones,
    /// `CONNECT_BATCH_RECORDS`: the most operations in one write.
    pub batch_records: usize,
    /// `CONNECT_BATCH_BYTES`: a batch is closed once its records hold this many bytes.
    pub batch_bytes: usize,
    /// `CONNECT_WRITE_TIMEOUT`: a write that takes longer counts as failed, and may still land.
    pub write_timeout: Duration,
    /// `CONNECT_DRAIN_TIMEOUT`: how long a stop waits for what is in hand.
    pub drain_timeout: Duration,
    /// `CONNECT_RATE`: records a second of the whole process, `None` for no limit.
    pub rate: Option<u32>,
    /// `CONNECT_KAFKA_START`: where to begin when nothing is stored or committed.
    pub start: Start,
    /// `CONNECT_KAFKA_STOP`: when to stop by itself.
    pub stop: Stop,
    /// `CONNECT_KAFKA_OUT_OF_RANGE`: what to do when records were deleted before they were read.
    pub out_of_range: OutOfRange,
    /// Spreads the delays of retries: differs between processes, fixed in a simulation.
    pub jitter_seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tombstones: Tombstones::Delete,
            batch_records: 4_000,
            batch_bytes: 4 << 20,
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(25),
            rate: None,
            start: Start::Earliest,
            stop: Stop::Never,
            out_of_range: OutOfRange::Fatal,
            jitter_seed: 0,
        }
    }
}

/// What a record with a null value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstones {
    /// It deletes what its key names, in the manner of the sink.
    Delete,
    /// It is counted as filtered.
    Ignore,
    /// It is a record that can't be written: a dead letter.
    Reject,
}

/// Where to begin when neither the store nor Kafka knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record kept.
    Earliest,
    /// Behind the newest record.
    Latest,
    /// At the first record of this time or later, milliseconds since the epoch.
    Timestamp(i64),
    /// At this offset of each partition.
    Offset(i64),
}

/// When to stop by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// On a signal only.
    Never,
    /// When everything is written that was there at the start: a backfill.
    End,
}

/// What to do when the position has been deleted by retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfRange {
    /// Stop with exit code 1: records were lost and a person should know.
    Fatal,
    /// Go on at the oldest record kept; what is missing is logged and counted as skipped.
    Earliest,
    /// Go on behind the newest record; what is missing is logged and counted as skipped.
    Latest,
}
