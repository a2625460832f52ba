//! A store in memory: a sink of the strictest kind that each way of guarding writes allows.
//!
//! Its clones share one store, as processes do. What a record does is told by its header [`HEADER`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use connect_core::{
    Assigned, Batch, Header, Item, Outcome, Record, Rejection, Resume, Sink, SinkError, TopicPartition, Verdict,
};
use tokio::time::sleep;

/// Name of the header that makes a record behave oddly; see [`Behaviour`].
pub const HEADER: &str = "behaviour";

/// What a record does, apart from being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// It is written.
    Written,
    /// `prepare` rejects it.
    Rejected,
    /// `prepare` leaves it out.
    Filtered,
    /// The store refuses it.
    Refused,
    /// It is written and gone at once.
    Expired,
}

impl Behaviour {
    const NAMED: [(Self, &'static str); 4] = [
        (Self::Rejected, "rejected"),
        (Self::Filtered, "filtered"),
        (Self::Refused, "refused"),
        (Self::Expired, "expired"),
    ];

    /// The headers of a record that behaves so.
    pub fn headers(self) -> Vec<Header> {
        let named = Self::NAMED.iter().find(|(behaviour, _)| *behaviour == self);
        let header = |(_, name): &(Self, &'static str)| Header {
            key: Bytes::from_static(HEADER.as_bytes()),
            value: Some(Bytes::from_static(name.as_bytes())),
        };
        named.map(header).into_iter().collect()
    }

    /// How this record behaves.
    pub fn of(record: &Record) -> Self {
        let value = record.header(HEADER);
        let named = Self::NAMED.iter().find(|(_, name)| value.is_some_and(|value| value == name.as_bytes()));
        named.map_or(Self::Written, |(behaviour, _)| *behaviour)
    }
}

/// How a store keeps replays and late requests from doing harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Not at all: the last write to arrive wins.
    None,
    /// Each key remembers the offset of its last write; older ones are superseded.
    PerKey,
    /// Data and offset change in one step, and only if the stored offset is the expected one.
    Atomic,
}

/// A deliberate bug of a store, for the tests of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Older writes are taken, too.
    NoGuard,
    /// A missing offset passes for any that is expected.
    MissingOffsetPasses,
    /// Of a batch that is stored in part, the stored part is written again.
    PrefixTwice,
    /// Behind a refused record the store goes on, offset included.
    RefusedPasses,
    /// The offset moves in a step of its own, after the data.
    OffsetLater,
}

impl Flaw {
    /// Every bug, and the guard that it belongs to.
    pub const ALL: [(Self, Guard); 5] = [
        (Self::NoGuard, Guard::PerKey),
        (Self::MissingOffsetPasses, Guard::Atomic),
        (Self::PrefixTwice, Guard::Atomic),
        (Self::RefusedPasses, Guard::Atomic),
        (Self::OffsetLater, Guard::Atomic),
    ];
}

/// What a write does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The value replaces what was there, and a tombstone removes it.
    Put,
    /// The value is appended to what is there: each write shows, and one too many shows, too. A tombstone clears.
    Append,
}

/// One write as a record asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    key: Bytes,
    value: Option<Bytes>,
    behaviour: Behaviour,
}

/// What the store holds at one moment.
#[derive(Clone, Debug, Default)]
struct State {
    data: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Offset of the last write of each key, also of those that a tombstone removed.
    versions: BTreeMap<(TopicPartition, Vec<u8>), i64>,
    offsets: BTreeMap<TopicPartition, i64>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// Every offset that was ever durable here: what was lost in a fail-over is still in it.
    ever: BTreeSet<(TopicPartition, i64)>,
    snapshot: Option<State>,
}

/// A store in memory, and a sink for it.
#[derive(Clone, Debug)]
pub struct Store {
    guard: Guard,
    effect: Effect,
    lanes: usize,
    flaw: Option<Flaw>,
    inner: Arc<Mutex<Inner>>,
}

impl Store {
    /// An empty store, written to through one lane.
    pub fn new(guard: Guard, effect: Effect) -> Self {
        Self { guard, effect, lanes: 1, flaw: None, inner: Arc::default() }
    }

    /// The same store, written to through so many lanes.
    pub fn with_lanes(self, lanes: usize) -> Self {
        Self { lanes, ..self }
    }

    /// The same store with a deliberate bug.
    pub fn with_flaw(self, flaw: Option<Flaw>) -> Self {
        Self { flaw, ..self }
    }

    /// What a write does here.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// What the store holds: value by key.
    pub fn dump(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.lock().state.data.clone()
    }

    /// Whether this record was ever durable in the store.
    pub fn ever_held(&self, partition: &TopicPartition, offset: i64) -> bool {
        self.lock().ever.contains(&(partition.clone(), offset))
    }

    /// A replica catches up: this is what a fail-over falls back to.
    pub fn replicate(&self) {
        let mut inner = self.lock();
        inner.snapshot = Some(inner.state.clone());
    }

    /// The replica takes over: what was written since it last caught up is lost.
    pub fn fail_over(&self) {
        let mut inner = self.lock();
        inner.state = inner.snapshot.clone().unwrap_or_default();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment at which the store changes.
    fn apply(&self, batch: &Batch<Write>) -> Result<Outcome, SinkError> {
        let mut inner = self.lock();
        if self.guard != Guard::Atomic {
            let mut outcome = Outcome::written();
            for (index, item) in batch.items.iter().enumerate() {
                if let Some(verdict) = self.write_item(&mut inner, &batch.source, item) {
                    outcome.set(index, verdict);
                }
            }
            return Ok(outcome);
        }
        let stored = inner.state.offsets.get(&batch.source).copied();
        if stored.is_some_and(|stored| stored >= batch.next && stored > batch.first) {
            return Ok(Outcome::superseded(0..batch.items.len()));
        }
        // A request of ours that landed late may have been cut off before its end: behind it we go on.
        let within = stored.is_some_and(|stored| stored > batch.first && stored < batch.next);
        let missing_passes = self.flaw == Some(Flaw::MissingOffsetPasses) && stored.is_none();
        if stored != batch.expected && !within && !missing_passes {
            return Err(SinkError::OutOfStep { stored });
        }
        let stored = stored.filter(|_| self.flaw != Some(Flaw::PrefixTwice));
        let done = batch.items.iter().filter(|item| stored.is_some_and(|stored| item.offset < stored)).count();
        let mut outcome = Outcome::superseded(0..done);
        for (index, item) in batch.items.iter().enumerate().skip(done) {
            let verdict = self.write_item(&mut inner, &batch.source, item);
            let Some(verdict) = verdict else { continue };
            let refused = matches!(verdict, Verdict::Rejected(_));
            outcome.set(index, verdict);
            if refused && self.flaw != Some(Flaw::RefusedPasses) {
                inner.state.offsets.insert(batch.source.clone(), item.offset);
                return Ok(outcome);
            }
        }
        if self.flaw != Some(Flaw::OffsetLater) {
            inner.state.offsets.insert(batch.source.clone(), batch.next);
        }
        Ok(outcome)
    }

    fn write_item(&self, inner: &mut Inner, partition: &TopicPartition, item: &Item<Write>) -> Option<Verdict> {
        let Write { key, value, behaviour } = &item.op;
        if *behaviour == Behaviour::Refused {
            return Some(Verdict::Rejected(Rejection::new("the store refuses this record")));
        }
        inner.ever.insert((partition.clone(), item.offset));
        let version = inner.state.versions.entry((partition.clone(), key.to_vec())).or_insert(-1);
        let guarded = self.guard == Guard::PerKey && self.flaw != Some(Flaw::NoGuard);
        if guarded && *version >= item.offset {
            return Some(Verdict::Superseded);
        }
        *version = item.offset;
        match (value, self.effect) {
            (Some(_), Effect::Put) if *behaviour == Behaviour::Expired => {
                inner.state.data.remove(&key[..]);
            }
            (Some(value), Effect::Put) => {
                inner.state.data.insert(key.to_vec(), value.to_vec());
            }
            (Some(value), Effect::Append) => {
                inner.state.data.entry(key.to_vec()).or_default().extend_from_slice(value);
            }
            (None, _) => {
                inner.state.data.remove(&key[..]);
            }
        }
        (*behaviour == Behaviour::Expired).then_some(Verdict::Expired)
    }
}

/// What a store must hold once these records, in offset order per partition, are written exactly once.
pub fn oracle<'a>(effect: Effect, records: impl IntoIterator<Item = &'a Record>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let store = Store::new(Guard::None, effect);
    let mut inner = store.lock();
    for record in records {
        if let Ok(Some(op)) = store.prepare(record) {
            let partition = TopicPartition::new(Arc::clone(&record.topic), record.partition);
            store.write_item(&mut inner, &partition, &Item { offset: record.offset, op });
        }
    }
    inner.state.data.clone()
}

impl Sink for Store {
    type Op = Write;

    fn atomic(&self) -> bool {
        self.guard == Guard::Atomic
    }

    fn lanes(&self) -> usize {
        self.lanes
    }

    fn prepare(&self, record: &Record) -> Result<Option<Write>, Rejection> {
        let behaviour = Behaviour::of(record);
        match (behaviour, &record.key) {
            (Behaviour::Rejected, _) => Err(Rejection::new("the record's header asks for it")),
            (Behaviour::Filtered, _) => Ok(None),
            (_, None) => Err(Rejection::new("the key is null")),
            (_, Some(key)) => Ok(Some(Write { key: key.clone(), value: record.value.clone(), behaviour })),
        }
    }

    fn target<'a>(&self, op: &'a Write) -> Option<&'a [u8]> {
        Some(&op.key)
    }

    async fn write(&self, batch: &Batch<Write>) -> Result<Outcome, SinkError> {
        // The request is on its way, then the answer.
        tokio::task::yield_now().await;
        let outcome = self.apply(batch);
        tokio::task::yield_now().await;
        if self.flaw == Some(Flaw::OffsetLater) && outcome.is_ok() {
            sleep(Duration::from_millis(5)).await;
            self.lock().state.offsets.insert(batch.source.clone(), batch.next);
        }
        outcome
    }

    async fn resume(&self, assigned: &Assigned) -> Result<Resume, SinkError> {
        tokio::task::yield_now().await;
        if self.guard != Guard::Atomic {
            return Ok(Resume::NotKept);
        }
        let stored = self.lock().state.offsets.get(&assigned.partition).copied();
        Ok(stored.map_or(Resume::Empty, Resume::At))
    }
}
