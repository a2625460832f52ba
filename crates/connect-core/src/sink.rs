//! What a store must offer: the one trait that the author of a sink implements.

use std::future::Future;
use std::ops::Range;

use crate::record::{Record, TopicPartition};

/// A store that records are written to.
///
/// The framework calls [`prepare`](Sink::prepare) for each record in offset order, gathers operations into batches of
/// one partition, and calls [`write`](Sink::write) until each operation is durable. Three things happen in production and
/// must not change the final state of the store: a batch is delivered again, whole or from an earlier offset;
/// `write` is dropped at any `.await`; a request that timed out still lands later, after newer ones.
pub trait Sink: Send + Sync + 'static {
    /// What one record becomes in this store. Cloning must be cheap (`Bytes`, not `Vec<u8>`).
    type Op: Clone + Send + Sync + 'static;

    /// Whether data and offset change in one step in this store.
    ///
    /// Such a sink gets the batches of a partition strictly one after the other and whole, writes an exact prefix of
    /// a batch or all of it, implements [`resume`](Sink::resume), and never answers [`Verdict::Retry`].
    fn atomic(&self) -> bool {
        false
    }

    /// How many writes of one partition may run side by side. Operations of one [`target`](Sink::target) stay in order
    /// whatever the number. Not used by an [atomic](Sink::atomic) sink.
    fn lanes(&self) -> usize {
        1
    }

    /// Turns a record into an operation. Pure: no I/O, no clock, the same answer for the same record.
    ///
    /// `Ok(None)`: the record is filtered out and counted so.
    ///
    /// # Errors
    /// A [`Rejection`] when the record can never be written; it becomes a dead letter.
    fn prepare(&self, record: &Record) -> Result<Option<Self::Op>, Rejection>;

    /// What in the store the operation touches: database, index, routing, key. Order is kept per target.
    /// `None`: order is kept with every other operation of the partition.
    fn target<'a>(&self, op: &'a Self::Op) -> Option<&'a [u8]>;

    /// Makes every item durable, or says which are not. Dropped after `CONNECT_WRITE_TIMEOUT`, called again with back-off: a connection
    /// that was in use then is not to be used again, for nothing else finds out that it is dead.
    ///
    /// # Errors
    /// [`SinkError`] when nothing can be said about single items. What is unknown is `Transient`, never a rejection.
    fn write(&self, batch: &Batch<Self::Op>) -> impl Future<Output = Result<Outcome, SinkError>> + Send;

    /// Can the store be used with these settings? Called at start and by the `check` command.
    ///
    /// # Errors
    /// `Transient` when it may come later (called again), `Fatal` when a person must change something.
    fn check(&self) -> impl Future<Output = Result<(), SinkError>> + Send {
        async { Ok(()) }
    }

    /// Where to go on, for a store that keeps offsets with the data.
    ///
    /// # Errors
    /// As for [`write`](Sink::write); `OutOfStep` has no meaning here.
    fn resume(&self, partition: &Assigned) -> impl Future<Output = Result<Resume, SinkError>> + Send {
        let _ = partition;
        async { Ok(Resume::NotKept) }
    }

    /// The offset kept with the data, as [`resume`](Sink::resume) would find it, but changing nothing: for `offsets show`. A
    /// store that keeps none needs neither this nor [`set_stored`](Sink::set_stored).
    ///
    /// # Errors
    /// As for [`resume`](Sink::resume).
    fn stored(&self, partition: &Assigned) -> impl Future<Output = Result<Resume, SinkError>> + Send {
        let _ = partition;
        async { Ok(Resume::NotKept) }
    }

    /// Makes this the offset kept with the data, whatever was there: for `offsets reset`, while no process of the connector
    /// runs. Doing it twice is like doing it once.
    ///
    /// # Errors
    /// As for [`resume`](Sink::resume).
    fn set_stored(&self, partition: &Assigned, offset: i64) -> impl Future<Output = Result<(), SinkError>> + Send {
        let _ = (partition, offset);
        async { Ok(()) }
    }

    /// What becomes of records that are read again after `offsets reset`: said to the person who resets. A sink whose store guards each key by
    /// its offset answers [`Replay::Superseded`], one whose writes accumulate [`Replay::Repeated`].
    fn replay(&self) -> Replay {
        Replay::Written
    }
}

/// What becomes of records that are read again on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// They are written again, and the outcome is the same.
    Written,
    /// They are written again, and count a second time.
    Repeated,
    /// The store refuses what is not newer than what it holds, unless in a new epoch ([`Context::epoch`](crate::Context::epoch)).
    Superseded {
        /// What may be done instead of a new epoch, naming the settings.
        instead: &'static str,
        /// Whether they would count a second time in a new epoch.
        accumulates: bool,
    },
}

/// A partition that this process owns, and what Kafka knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The partition.
    pub partition: TopicPartition,
    /// Identity of this life of the topic (KIP-516), where the broker told it: a topic deleted and made again has another.
    pub topic_id: Option<[u8; 16]>,
    /// The offset committed to Kafka, when there is one.
    pub committed: Option<i64>,
    /// Whether another program made that commit, such as `kafka-consumer-groups --reset-offsets`.
    pub committed_by_other: bool,
    /// Where to begin when neither the store nor Kafka knows; `None`: where `CONNECT_KAFKA_START` says.
    pub start: Option<i64>,
}

impl Assigned {
    /// A partition of which nothing else is known.
    pub fn new(partition: TopicPartition) -> Self {
        Self { partition, topic_id: None, committed: None, committed_by_other: false, start: None }
    }
}

/// Where a store says to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The store says nothing: go on at the offset committed to Kafka, else where `CONNECT_KAFKA_START` says.
    NotKept,
    /// The store is new: build it where `CONNECT_KAFKA_START` says, whatever was committed to Kafka.
    Empty,
    /// Everything below this offset is in the store.
    At(i64),
}

/// Operations of one partition, in offset order.
#[derive(Clone, Debug)]
pub struct Batch<Op> {
    /// The partition that the records came from.
    pub source: TopicPartition,
    /// The offset that an atomic sink must find stored, exactly; `None`: it must find none.
    pub expected: Option<i64>,
    /// The previous batch's `next`, or where the partition was taken up: between batches there are no holes,
    /// whatever control records, compaction or filters left out.
    pub first: i64,
    /// The offset to go on at once all items are durable.
    pub next: i64,
    /// May be empty: an atomic sink then stores `next` alone.
    pub items: Vec<Item<Op>>,
}

/// One operation and the offset of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<Op> {
    /// Offset of the record.
    pub offset: i64,
    /// What to do in the store.
    pub op: Op,
}

/// What became of a batch: every item is durable except those named here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    exceptions: Vec<(usize, Verdict)>,
}

/// What became of an item that is not simply written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not durable; worth sending again. The framework sends every later item of the same target again with it.
    Retry,
    /// Can never be written. An atomic sink stopped before this item: its offset is stored, and nothing behind it. A sink
    /// whose store remembers the last offset of each target writes nothing behind it to the same target, but answers
    /// [`Retry`](Self::Retry), which costs no delay then: were the record mended, it would be taken for one that is there already.
    Rejected(Rejection),
    /// The store already held this write or a later one; nothing changed. Or a later item of this batch replaces it.
    Superseded,
    /// Written, and gone at once: its expiry lay in the past.
    Expired,
}

impl Outcome {
    /// Every item is durable.
    pub fn written() -> Self {
        Self::default()
    }

    /// The items at these indexes were already in the store.
    pub fn superseded(indexes: Range<usize>) -> Self {
        Self { exceptions: indexes.map(|index| (index, Verdict::Superseded)).collect() }
    }

    /// Says what became of the item at `index`. Call at most once an item.
    pub fn set(&mut self, index: usize, verdict: Verdict) {
        self.exceptions.push((index, verdict));
    }

    /// The items that are not simply written, in the order in which they were named.
    pub fn exceptions(&self) -> &[(usize, Verdict)] {
        &self.exceptions
    }

    /// The same, by value and in index order.
    pub fn into_sorted(mut self) -> Vec<(usize, Verdict)> {
        self.exceptions.sort_by_key(|(index, _)| *index);
        self.exceptions
    }
}

/// Why a record can never be written. Its text goes to the log and into the dead letter's headers: it names the
/// setting or the path that was missed, never the record's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejection {
    reason: String,
}

impl Rejection {
    /// Gives the reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Why a whole write did not happen, or may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It may work later: tried again for ever, with back-off, while only this partition waits.
    #[error("{message}")]
    Transient {
        /// A word for the `reason` label of `connect_retries_total`: `connection`, `busy`, `out_of_memory` …
        reason: &'static str,
        /// What the store said and what to do if it stays so.
        message: String,
    },
    /// The stored offset is not the expected one: the partition takes up again where the store says.
    #[error("the offset stored is {stored:?}, not the expected one")]
    OutOfStep {
        /// The offset found, `None` when there is none.
        stored: Option<i64>,
    },
    /// A person must change something: the process stops with exit code 1.
    #[error("{0}")]
    Fatal(String),
}

impl SinkError {
    /// An error that may pass.
    pub fn transient(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Transient { reason, message: message.into() }
    }

    /// An error that stops the process.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::Fatal(message.into())
    }
}
