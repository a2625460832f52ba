//! What a log must offer to be read.

use std::future::Future;

use crate::budget::Charge;
use crate::record::{Record, TopicPartition};

/// A partitioned log, read one partition at a time.
///
/// Every call is bounded in time by the source itself and may be dropped at any `.await`.
pub trait Source: Send + Sync + 'static {
    /// Reads on from `offset`, waiting a short while (about half a second) when there is nothing.
    ///
    /// # Errors
    /// [`SourceError`]; after `Transient` the same call is made again.
    fn fetch(
        &self,
        partition: &TopicPartition,
        offset: i64,
    ) -> impl Future<Output = Result<Fetched, SourceError>> + Send;

    /// Resolves a position to an offset.
    ///
    /// # Errors
    /// As for [`fetch`](Source::fetch).
    fn offset(
        &self,
        partition: &TopicPartition,
        position: Position,
    ) -> impl Future<Output = Result<i64, SourceError>> + Send;
}

/// A place in a partition that the log itself resolves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The oldest record still kept.
    Earliest,
    /// Behind the newest record that may be read: the last stable offset for a read-committed source, else the high watermark.
    Latest,
    /// The first record of this time or later, milliseconds since the epoch; the end when there is none.
    Timestamp(i64),
}

/// An answer to a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// Records in offset order, none below the offset asked for.
    pub records: Vec<Record>,
    /// Where to read on. It moves past control records, aborted records and gaps even when `records` is empty.
    pub next: i64,
    /// The offset below which every transaction is decided.
    pub last_stable_offset: i64,
    /// The offset below which every record is replicated.
    pub high_watermark: i64,
    /// The memory that the records' buffers hold, until this is dropped.
    pub charge: Charge,
}

impl Fetched {
    /// No records, but a place to go on at.
    pub(crate) fn empty(next: i64) -> Self {
        Self { records: Vec::new(), next, last_stable_offset: next, high_watermark: next, charge: Charge::none() }
    }
}

/// Why a read did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It may work later: tried again for ever with back-off.
    #[error("{message}")]
    Transient {
        /// A word for the `reason` label of `connect_retries_total`.
        reason: &'static str,
        /// What the broker said and what to do if it stays so.
        message: String,
    },
    /// The offset is below the oldest record kept or beyond the end.
    #[error("the offset is out of range: the partition holds {earliest} to {latest}")]
    OutOfRange {
        /// Offset of the oldest record kept.
        earliest: i64,
        /// The offset behind the newest record.
        latest: i64,
    },
    /// A person must change something: the process stops with exit code 1.
    #[error("{0}")]
    Fatal(String),
}

impl SourceError {
    /// An error that may pass.
    pub fn transient(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Transient { reason, message: message.into() }
    }
}
