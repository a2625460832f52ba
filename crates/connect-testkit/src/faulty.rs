//! A sink that does to its callers what networks and stores do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use connect_core::{Assigned, Batch, Outcome, Record, Rejection, Resume, Sink, SinkError, Verdict};
use tokio::time::sleep;

use crate::dice::{Dice, Trouble};
use crate::met::Met;

/// How many kinds of faults there are.
const KINDS: u64 = 8;

/// How often what goes wrong.
#[derive(Debug)]
pub struct Faults {
    dice: Dice,
    trouble: Arc<Trouble>,
    /// The longest that a slow call takes. Longer than the write time-out: calls are dropped while they are under way.
    slow: Duration,
    /// The longest way of a good call to the store, and back.
    latency: Duration,
    /// Whether a request that was given up may still land. Only a sink with a guard can stand that.
    late: bool,
    /// The kind of fault that this world has more of: rare coincidences come up more often than by even chance.
    favourite: u64,
    under_way: AtomicUsize,
}

impl Faults {
    /// Slow calls take up to `slow`, good ones twice `latency`; with `late`, given-up requests land later.
    pub fn new(dice: Dice, trouble: Arc<Trouble>, slow: Duration, latency: Duration, late: bool) -> Arc<Self> {
        let favourite = dice.below(KINDS);
        Arc::new(Self { favourite, dice, trouble, slow, latency, late, under_way: AtomicUsize::new(0) })
    }

    /// Given-up requests that have not landed.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Relaxed)
    }

    fn strikes(&self) -> bool {
        self.trouble.strikes(&self.dice)
    }
}

/// Any sink, with faults.
#[derive(Debug)]
pub struct Faulty<K> {
    sink: Arc<K>,
    faults: Arc<Faults>,
}

impl<K> Faulty<K> {
    /// Puts faults between a sink and its caller.
    pub fn new(sink: Arc<K>, faults: Arc<Faults>) -> Self {
        Self { sink, faults }
    }
}

fn gone() -> SinkError {
    SinkError::transient("connection", "the store is gone")
}

impl<K: Sink> Faulty<K> {
    /// The store takes some items and asks for the others again, whatever their order.
    async fn write_some(&self, batch: &Batch<K::Op>) -> Result<Outcome, SinkError> {
        let percent = self.faults.dice.between(10, 95);
        let taken: Vec<bool> = batch.items.iter().map(|_| self.faults.dice.percent(percent)).collect();
        let indexes: Vec<usize> = (0..taken.len()).filter(|index| taken[*index]).collect();
        let items = indexes.iter().map(|index| batch.items[*index].clone()).collect();
        let some = Batch { source: batch.source.clone(), items, ..*batch };
        let mut outcome = Outcome::written();
        for (index, verdict) in self.sink.write(&some).await?.into_sorted() {
            outcome.set(indexes[index], verdict);
        }
        for index in (0..taken.len()).filter(|index| !taken[*index]) {
            self.faults.trouble.met(Met::SomeItemsAgain);
            outcome.set(index, Verdict::Retry);
        }
        Ok(outcome)
    }

    /// The request is held up somewhere, and lands whether or not anybody still waits.
    fn land_later(&self, batch: &Batch<K::Op>) {
        let (sink, faults, batch) = (Arc::clone(&self.sink), Arc::clone(&self.faults), batch.clone());
        let delay = faults.dice.time(faults.slow * 4);
        faults.under_way.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            sleep(delay).await;
            faults.trouble.met(Met::LateLanding);
            let _ = sink.write(&batch).await;
            faults.under_way.fetch_sub(1, Relaxed);
        });
    }
}

impl<K: Sink> Sink for Faulty<K> {
    type Op = K::Op;

    fn atomic(&self) -> bool {
        self.sink.atomic()
    }

    fn lanes(&self) -> usize {
        self.sink.lanes()
    }

    fn prepare(&self, record: &Record) -> Result<Option<K::Op>, Rejection> {
        self.sink.prepare(record)
    }

    fn target<'a>(&self, op: &'a K::Op) -> Option<&'a [u8]> {
        self.sink.target(op)
    }

    async fn write(&self, batch: &Batch<K::Op>) -> Result<Outcome, SinkError> {
        let dropped = NoteWhenDropped(&self.faults.trouble);
        self.faults.trouble.step().await;
        let result = self.try_write(batch).await;
        self.faults.trouble.step().await;
        std::mem::forget(dropped);
        self.note(batch, &result);
        result
    }

    async fn check(&self) -> Result<(), SinkError> {
        if self.faults.strikes() { Err(gone()) } else { self.sink.check().await }
    }

    async fn resume(&self, partition: &Assigned) -> Result<Resume, SinkError> {
        if self.faults.strikes() {
            sleep(self.faults.dice.time(self.faults.slow)).await;
            return Err(gone());
        }
        self.faults.trouble.step().await;
        self.sink.resume(partition).await
    }
}

impl<K: Sink> Faulty<K> {
    async fn try_write(&self, batch: &Batch<K::Op>) -> Result<Outcome, SinkError> {
        let faults = &self.faults;
        if !faults.strikes() {
            sleep(faults.dice.time(faults.latency)).await;
            let outcome = self.sink.write(batch).await;
            sleep(faults.dice.time(faults.latency)).await;
            return outcome;
        }
        let total = faults.trouble.is_total();
        let kind = if faults.dice.percent(50) { faults.favourite } else { faults.dice.below(KINDS) };
        match kind {
            _ if total => {
                sleep(faults.dice.time(faults.slow)).await;
                Err(gone())
            }
            0 => {
                faults.trouble.met(Met::WriteRefused);
                Err(gone())
            }
            1 => {
                let applied = self.sink.write(batch).await;
                faults.trouble.met(Met::AnswerLost);
                applied.and(Err(gone()))
            }
            2 => {
                sleep(faults.dice.time(faults.slow)).await;
                self.sink.write(batch).await
            }
            3 => {
                let outcome = self.sink.write(batch).await;
                sleep(faults.dice.time(faults.slow)).await;
                outcome
            }
            4 if !self.atomic() => self.write_some(batch).await,
            5 if faults.late => {
                self.land_later(batch);
                sleep(faults.dice.time(faults.slow)).await;
                Err(gone())
            }
            6 if faults.late => {
                self.land_later(batch);
                std::future::pending().await
            }
            _ => {
                sleep(faults.dice.time(faults.slow)).await;
                Err(gone())
            }
        }
    }

    /// Takes note of an answer that the pipeline must understand.
    fn note(&self, batch: &Batch<K::Op>, result: &Result<Outcome, SinkError>) {
        let trouble = &self.faults.trouble;
        match result {
            Ok(outcome) => {
                let verdicts = outcome.exceptions();
                if verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Rejected(_))) {
                    trouble.met(Met::ItemRefused);
                }
                let superseded = verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Superseded).count();
                if self.atomic() && (1..batch.items.len()).contains(&superseded) {
                    trouble.met(Met::PartOfBatchStored);
                }
            }
            Err(SinkError::OutOfStep { stored }) if *stored > batch.expected => trouble.met(Met::OutOfStepForward),
            Err(SinkError::OutOfStep { .. }) => trouble.met(Met::OutOfStepBack),
            Err(_) => {}
        }
    }
}

/// A call that never comes to its end drops this.
struct NoteWhenDropped<'a>(&'a Trouble);

impl Drop for NoteWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.met(Met::WriteDropped);
    }
}
