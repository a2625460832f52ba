//! Records on their way into a sink, as the framework hands them over.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use connect_core::{Assigned, Batch, Item, Outcome, Record, Resume, Sink, SinkError, TopicPartition, Verdict};
use tokio::time::{Instant, sleep, timeout};

use super::harness::{Dump, Harness, Place};
use super::report::{Checked, Obstacle};

/// A call that takes longer counts as failed for a moment, as in the framework.
const CALL: Duration = Duration::from_secs(15);
/// What fails for a moment must work within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A record of the checks' one topic.
pub(super) fn record(offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Record {
    Record {
        topic: "conformance".into(),
        partition: 0,
        offset,
        timestamp: 1_700_000_000_000 + offset,
        key: key.map(Bytes::copy_from_slice),
        value: value.map(Bytes::copy_from_slice),
        headers: Vec::new(),
    }
}

/// The document that a record at `offset` brings for `key`.
pub(super) fn document(offset: i64, key: &str) -> Record {
    let value = serde_json::json!({ "id": key, "n": offset }).to_string();
    record(offset, Some(key.as_bytes()), Some(value.as_bytes()))
}

/// One document a key, at the offsets from 0.
pub(super) fn documents<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<Record> {
    keys.into_iter().enumerate().map(|(offset, key)| document(offset as i64, key)).collect()
}

/// `count` documents of a few keys that come back again and again.
pub(super) fn recurring(count: i64) -> Vec<Record> {
    (0..count).map(|offset| document(offset, &format!("k{}", offset * 7 % 5))).collect()
}

/// What became of records that are all settled.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Offsets, ascending.
    pub(super) rejected: Vec<i64>,
    pub(super) superseded: usize,
}

/// One process that owns the partition.
pub(super) struct Process<'a, H: Harness> {
    harness: &'a H,
    pub(super) place: Place,
    pub(super) sink: H::Sink,
    position: i64,
    expected: Option<i64>,
}

impl<'a, H: Harness> Process<'a, H> {
    /// The first process at a place of its own.
    pub(super) async fn first(harness: &'a H) -> Result<Self, Obstacle> {
        Self::start(harness, &Place::new()).await
    }

    /// A process that starts at a place where others may have been before.
    pub(super) async fn start(harness: &'a H, place: &Place) -> Result<Self, Obstacle> {
        let sink = connect(harness, place).await?;
        let mut process = Self { harness, place: place.clone(), sink, position: 0, expected: None };
        process.take_up().await?;
        Ok(process)
    }

    /// Takes the partition up where the store says, at 0 where it doesn't.
    pub(super) async fn take_up(&mut self) -> Result<Resume, Obstacle> {
        let resume = self.ask().await?;
        if self.sink.atomic() && self.expected.is_none() {
            self.write_batch(self.batch(&[], self.position).0).await?;
        }
        Ok(resume)
    }

    /// Asks the store where to go on.
    async fn ask(&mut self) -> Result<Resume, Obstacle> {
        let assigned = assigned();
        let deadline = Instant::now() + PATIENCE;
        let resume = loop {
            match timeout(CALL, self.sink.resume(&assigned)).await {
                Ok(Ok(resume)) => break resume,
                Ok(Err(SinkError::Transient { .. })) | Err(_) if Instant::now() < deadline => pause().await,
                Ok(Err(error)) => return Err(failed(format!("resume: {error}"))),
                Err(_) => return Err(failed("resume takes for ever".to_owned())),
            }
        };
        (self.position, self.expected) = match resume {
            Resume::At(offset) => (offset, Some(offset)),
            Resume::Empty | Resume::NotKept => (0, None),
        };
        Ok(resume)
    }

    /// The batch of these records, whatever has been written before, and the offsets that `prepare` rejects.
    pub(super) fn batch(&self, records: &[Record], next: i64) -> (Batch<<H::Sink as Sink>::Op>, Vec<i64>) {
        let (mut items, mut rejected) = (Vec::new(), Vec::new());
        for record in records {
            match self.sink.prepare(record) {
                Ok(Some(op)) => items.push(Item { offset: record.offset, op }),
                Ok(None) => {}
                Err(_) => rejected.push(record.offset),
            }
        }
        let source = assigned().partition;
        (Batch { source, expected: self.expected, first: self.position, next, items }, rejected)
    }

    /// The batch of these records, as it comes next.
    pub(super) fn batch_of(&self, records: &[Record]) -> Batch<<H::Sink as Sink>::Op> {
        self.batch(records, end_of(records).unwrap_or(self.position)).0
    }

    /// Goes back as a new owner does that only knows an older commit.
    pub(super) fn go_back_to(&mut self, offset: i64) {
        self.position = offset;
        self.expected = Some(offset);
    }

    /// One call of `write`, bounded in time.
    pub(super) async fn attempt(&self, batch: &Batch<<H::Sink as Sink>::Op>) -> Result<Outcome, SinkError> {
        let late = |_| Err(SinkError::transient("timeout", "no answer in time"));
        timeout(CALL, self.sink.write(batch)).await.unwrap_or_else(late)
    }

    /// Writes records until all are settled, as the framework does.
    pub(super) async fn write(&mut self, records: &[Record]) -> Result<Settled, Obstacle> {
        let next = end_of(records).unwrap_or(self.position);
        let (batch, rejected) = self.batch(records, next);
        let mut settled = self.write_batch(batch).await?;
        settled.rejected.extend(rejected);
        settled.rejected.sort_unstable();
        Ok(settled)
    }

    async fn write_batch(&mut self, mut batch: Batch<<H::Sink as Sink>::Op>) -> Result<Settled, Obstacle> {
        let mut deadline = Instant::now() + PATIENCE;
        let mut settled = Settled::default();
        let mut last = String::new();
        loop {
            let left = batch.items.len();
            match self.attempt(&batch).await {
                Ok(outcome) => {
                    settle(self.sink.atomic(), &mut batch, outcome, &mut settled)?;
                    if batch.items.is_empty() && !(self.sink.atomic() && batch.first < batch.next) {
                        self.position = batch.next;
                        self.expected = Some(batch.next);
                        return Ok(settled);
                    }
                }
                Err(SinkError::OutOfStep { .. }) => {
                    let Resume::At(offset) = self.ask().await? else {
                        return Err(failed("write said OutOfStep, and resume names no offset".to_owned()));
                    };
                    if offset < batch.first {
                        return Err(failed(format!("the store went back from {} to {offset}", batch.first)));
                    }
                    settled.superseded += batch.items.iter().filter(|item| item.offset < offset).count();
                    batch.items.retain(|item| item.offset >= offset);
                    (batch.first, batch.next, batch.expected) = (offset, batch.next.max(offset), Some(offset));
                }
                Err(error @ SinkError::Transient { .. }) => last = format!(", the last answer: {error}"),
                Err(error @ SinkError::Fatal(_)) => return Err(failed(format!("writing: {error}"))),
            }
            // A machine may be slow; what gets on is not stuck.
            if batch.items.len() < left {
                deadline = Instant::now() + PATIENCE;
            }
            if Instant::now() >= deadline {
                return Err(failed(format!("{} items can't be written within {PATIENCE:?}{last}", batch.items.len())));
            }
            pause().await;
        }
    }

    /// Compares the store with what these records make of it.
    pub(super) async fn holds(&self, records: &[Record]) -> Checked {
        same(&self.dump().await?, &self.harness.expect(records)).map_err(failed)
    }

    /// The same, whatever is stored under other keys.
    pub(super) async fn holds_of(&self, records: &[Record]) -> Checked {
        let mut found = self.dump().await?;
        found.retain(|found, _| records.iter().any(|record| record.key.as_deref() == Some(found)));
        same(&found, &self.harness.expect(records)).map_err(failed)
    }

    async fn dump(&self) -> Result<Dump, Obstacle> {
        let found = timeout(PATIENCE, self.harness.dump(&self.place)).await;
        found.map_err(|_| failed("dump takes for ever".to_owned()))
    }
}

/// Takes from `batch` what an outcome settled.
fn settle<Op>(atomic: bool, batch: &mut Batch<Op>, outcome: Outcome, settled: &mut Settled) -> Result<(), Obstacle> {
    let mut again: Option<usize> = None;
    let mut gone = Vec::new();
    for (index, verdict) in outcome.into_sorted() {
        let Some(item) = batch.items.get(index) else {
            return Err(failed(format!("the outcome names item {index} of {}", batch.items.len())));
        };
        match verdict {
            Verdict::Retry if atomic => return Err(failed("an atomic sink answered Retry".to_owned())),
            Verdict::Retry => again = again.or(Some(index)),
            Verdict::Rejected(_) => {
                settled.rejected.push(item.offset);
                gone.push(index);
                if atomic {
                    (batch.first, batch.expected) = (item.offset, Some(item.offset));
                    again = Some(index + 1);
                    break;
                }
            }
            Verdict::Superseded if again.is_none() => settled.superseded += 1,
            Verdict::Superseded | Verdict::Expired => {}
        }
    }
    let from = again.unwrap_or(batch.items.len());
    if again.is_none() {
        batch.first = batch.next;
    }
    let mut index = 0;
    batch.items.retain(|_| {
        index += 1;
        index > from && !gone.contains(&(index - 1))
    });
    Ok(())
}

/// Connects as a process does at its start: again, while the store does not answer.
pub(super) async fn connect<H: Harness>(harness: &H, place: &Place) -> Result<H::Sink, Obstacle> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match timeout(CALL, harness.connect(place)).await {
            Ok(Ok(sink)) => return Ok(sink),
            Ok(Err(SinkError::Transient { .. })) | Err(_) if Instant::now() < deadline => pause().await,
            Ok(Err(error)) => return Err(failed(format!("connecting: {error}"))),
            Err(_) => return Err(failed("connecting takes for ever".to_owned())),
        }
    }
}

/// The partition of the checks.
pub(super) fn assigned() -> Assigned {
    Assigned { topic_id: Some([7; 16]), ..Assigned::new(TopicPartition::new("conformance", 0)) }
}

fn end_of(records: &[Record]) -> Option<i64> {
    records.last().map(|record| record.offset + 1)
}

pub(super) fn failed(message: String) -> Obstacle {
    Obstacle::Failed(message)
}

pub(super) async fn pause() {
    sleep(Duration::from_millis(100)).await;
}

/// Says where two dumps differ.
fn same(found: &Dump, wanted: &Dump) -> Result<(), String> {
    for (key, value) in wanted {
        match found.get(key) {
            None => return Err(format!("{} is missing in the store", show(key))),
            Some(found) if !equal(found, value) => {
                return Err(format!("{} holds {}, not {}", show(key), show(found), show(value)));
            }
            Some(_) => {}
        }
    }
    match found.keys().find(|key| !wanted.contains_key(*key)) {
        Some(key) => Err(format!("{} is in the store and should not be", show(key))),
        None => Ok(()),
    }
}

/// Stores of documents write JSON their own way.
fn equal(found: &[u8], wanted: &[u8]) -> bool {
    let json = |bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    found == wanted || json(found).is_some_and(|found| json(wanted) == Some(found))
}

fn show(bytes: &[u8]) -> String {
    let shown: Range<usize> = 0..bytes.len().min(80);
    let rest = if shown.len() < bytes.len() { format!(" … ({} bytes)", bytes.len()) } else { String::new() };
    format!("`{}`{rest}", bytes[shown].escape_ascii())
}
