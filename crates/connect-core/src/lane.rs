//! One lane: writes its share of a batch until every item is settled, or says at which offset it cannot go on.

use std::collections::HashSet;
use std::time::Duration;

use metrics::{Histogram, histogram};
use tokio::time::Instant;
use tracing::trace;

use crate::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
use crate::hand::InHand;
use crate::ledger::Fate;
use crate::mutants::mutant;
use crate::record::Record;
use crate::retry::{Retry, bounded};
use crate::sink::{Batch, Item, Outcome, Rejection, Sink, SinkError, Verdict};

/// How a lane ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LaneEnd {
    /// Every item is settled.
    Done,
    /// Everything below `at` is settled, nothing at or behind it is promised.
    Held {
        /// Offset of the first item that is not settled.
        at: i64,
        /// Why.
        hold: Hold,
    },
}

/// Why a partition cannot simply go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// A record can't be written, and `CONNECT_DEAD_LETTERS=stop`, or its dead letter was refused.
    Rejected(Rejection),
    /// The store or the dead-letter topic has been failing for so long that the buffers are given back.
    GaveUp,
    /// The store's offset is not the expected one.
    OutOfStep(Option<i64>),
    /// The process must stop.
    Fatal(String),
}

/// What a lane needs besides its items.
pub(crate) struct Lane<'a, K: Sink> {
    pub(crate) sink: &'a K,
    pub(crate) dead_letters: &'a DeadLetters,
    pub(crate) write_timeout: Duration,
    pub(crate) jitter_seed: u64,
    /// The records that the items came from, in offset order: a dead letter is the record as it was.
    pub(crate) records: &'a [Record],
}

impl<K: Sink> Lane<'_, K> {
    /// Writes until everything is settled.
    pub(crate) async fn run(&self, mut batch: Batch<K::Op>, mut hand: InHand<'_>) -> LaneEnd {
        let figures = Figures::new();
        let mut retry = Retry::new(format_args!("writing {}", batch.source), self.jitter_seed);
        loop {
            let started = Instant::now();
            let result = bounded(self.write_timeout, self.sink.write(&batch)).await;
            figures.write_seconds.record(started.elapsed());
            let outcome = match result {
                Ok(outcome) => outcome,
                Err(SinkError::Transient { .. }) if mutant!(TransientMeansWritten) => Outcome::written(),
                Err(SinkError::Transient { reason, message }) => {
                    retry.wait(reason, &message).await;
                    if retry.out_of_patience() {
                        return LaneEnd::Held { at: self.start_of(&batch), hold: Hold::GaveUp };
                    }
                    continue;
                }
                Err(SinkError::OutOfStep { stored }) => {
                    return LaneEnd::Held { at: self.start_of(&batch), hold: Hold::OutOfStep(stored) };
                }
                Err(SinkError::Fatal(message)) => {
                    return LaneEnd::Held { at: self.start_of(&batch), hold: Hold::Fatal(message) };
                }
            };
            figures.batch_records.record(batch.items.len() as f64);
            trace!(partition = %batch.source, first = batch.first, next = batch.next, items = batch.items.len(), "written");

            let answer = Answer::read(self.sink, &batch.items, outcome);
            hand.settle(Fate::Written, answer.written);
            hand.settle(Fate::Superseded, answer.superseded);
            hand.settle(Fate::Expired, answer.expired);
            if let Err(hold) = self.bury(&answer.rejected, &mut hand).await {
                let first_again = answer.again.first().map(|index| batch.items[*index].offset);
                let at = answer.rejected.iter().map(|(offset, _)| *offset).chain(first_again).min();
                return LaneEnd::Held { at: at.unwrap_or(batch.first), hold };
            }
            // Behind a rejected last item nothing is left to write but the offset itself.
            let offset_is_left = self.sink.atomic() && !answer.rejected.is_empty();
            if answer.again.is_empty() && !offset_is_left {
                return LaneEnd::Done;
            }
            if answer.again.len() < batch.items.len() {
                retry.moved();
            }
            // Where something was rejected the others may only have stood behind it: no reason to wait.
            if answer.retried && answer.rejected.is_empty() {
                retry.wait("item", &"the store did not take some items").await;
            } else {
                retry.succeeded();
            }
            batch = remainder(self.sink.atomic(), batch, &answer);
            if retry.out_of_patience() {
                return LaneEnd::Held { at: self.start_of(&batch), hold: Hold::GaveUp };
            }
        }
    }

    /// The offset below which everything is settled when no more of `batch` is.
    fn start_of(&self, batch: &Batch<K::Op>) -> i64 {
        match batch.items.first() {
            Some(item) if !self.sink.atomic() => item.offset,
            // What is stored with the data has not moved: that is where the store will say to go on.
            _ => batch.first,
        }
    }

    /// Settles rejected items, or says why the first of them holds the lane.
    async fn bury(&self, rejected: &[(i64, Rejection)], hand: &mut InHand<'_>) -> Result<(), Hold> {
        let letters = rejected.iter().filter_map(|(offset, rejection)| {
            let index = self.records.binary_search_by_key(offset, |record| record.offset).ok()?;
            Some(DeadLetter { record: self.records[index].clone(), rejection: rejection.clone() })
        });
        let fate = bury(self.dead_letters, &letters.collect::<Vec<_>>(), self.jitter_seed).await?;
        hand.settle(fate, rejected.len());
        Ok(())
    }
}

/// Does with rejected records what `CONNECT_DEAD_LETTERS` says; on success they are settled with the fate returned.
pub(crate) async fn bury(policy: &DeadLetters, letters: &[DeadLetter], jitter_seed: u64) -> Result<Fate, Hold> {
    let Some(first) = letters.first() else { return Ok(Fate::DeadLettered) };
    if mutant!(SkipDeadLetter) {
        return Ok(Fate::DeadLettered);
    }
    let topic = match policy {
        DeadLetters::Stop => return Err(Hold::Rejected(first.rejection.clone())),
        DeadLetters::Drop => return Ok(Fate::Dropped),
        DeadLetters::Topic(topic) => topic,
    };
    let what = format!("dead letters of {}-{}", first.record.topic, first.record.partition);
    let mut retry = Retry::new(what, jitter_seed);
    loop {
        match topic.write(letters).await {
            Ok(()) => return Ok(Fate::DeadLettered),
            Err(DeadLetterError::Transient(message)) => retry.wait("dead_letter", &message).await,
            Err(DeadLetterError::Refused(message)) => {
                let reason = format!("{}; and the dead-letter topic refused it: {message}", first.rejection);
                return Err(Hold::Rejected(Rejection::new(reason)));
            }
        }
        if retry.out_of_patience() {
            return Err(Hold::GaveUp);
        }
    }
}

/// What an outcome means for each item.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    written: usize,
    superseded: usize,
    expired: usize,
    rejected: Vec<(i64, Rejection)>,
    /// Indexes of the items to send again, ascending.
    again: Vec<usize>,
    /// Whether `again` is there because the store asked for it (and so a delay is due).
    retried: bool,
}

impl Answer {
    fn read<K: Sink>(sink: &K, items: &[Item<K::Op>], outcome: Outcome) -> Self {
        let mut answer = Self::default();
        let mut exceptions = outcome.into_sorted().into_iter().peekable();
        let mut held = HeldTargets::default();
        let mut stopped = false;
        for (index, item) in items.iter().enumerate() {
            let mut verdict = None;
            while let Some((_, next)) = exceptions.next_if(|(at, _)| *at == index) {
                verdict = Some(next);
            }
            let target = sink.target(&item.op);
            if stopped || (held.holds(target) && !mutant!(ResendOnlyFailed)) {
                // What is sent again is itself a reason for later ones: without a target, for all of them.
                held.hold(target);
                answer.again.push(index);
                continue;
            }
            match verdict {
                None => answer.written += 1,
                Some(Verdict::Superseded) => answer.superseded += 1,
                Some(Verdict::Expired) => answer.expired += 1,
                Some(Verdict::Retry) => {
                    held.hold(target);
                    answer.again.push(index);
                    answer.retried = true;
                }
                Some(Verdict::Rejected(rejection)) => {
                    answer.rejected.push((item.offset, rejection));
                    // An atomic sink stopped before this item: nothing behind it was touched.
                    stopped = sink.atomic();
                }
            }
        }
        answer
    }
}

/// Targets of which an earlier item is sent again, so that every later one must be, too.
#[derive(Default)]
struct HeldTargets<'a> {
    some: HashSet<&'a [u8], ahash::RandomState>,
    all: bool,
}

impl<'a> HeldTargets<'a> {
    fn hold(&mut self, target: Option<&'a [u8]>) {
        match target {
            Some(target) => {
                self.some.insert(target);
            }
            None => self.all = true,
        }
    }

    fn holds(&self, target: Option<&'a [u8]>) -> bool {
        match target {
            Some(target) => self.all || self.some.contains(target),
            None => self.all || !self.some.is_empty(),
        }
    }
}

/// The batch that is left to write.
fn remainder<Op>(atomic: bool, mut batch: Batch<Op>, answer: &Answer) -> Batch<Op> {
    if atomic && let Some((stored, _)) = answer.rejected.first() {
        batch.first = *stored;
        batch.expected = if mutant!(OldExpectation) { batch.expected } else { Some(*stored) };
    }
    let mut again = answer.again.iter().skip(usize::from(mutant!(ForgetFirstIndex))).copied().peekable();
    let mut index = 0;
    batch.items.retain(|_| {
        let keep = again.next_if_eq(&index).is_some();
        index += 1;
        keep
    });
    batch
}

/// Handles of the metrics of a write.
struct Figures {
    batch_records: Histogram,
    write_seconds: Histogram,
}

impl Figures {
    fn new() -> Self {
        Self { batch_records: histogram!("connect_batch_records"), write_seconds: histogram!("connect_write_seconds") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The target is the operation itself; an empty one has none.
    struct Words {
        atomic: bool,
    }

    impl Sink for Words {
        type Op = &'static str;

        fn atomic(&self) -> bool {
            self.atomic
        }

        fn prepare(&self, _: &Record) -> Result<Option<Self::Op>, Rejection> {
            Ok(None)
        }

        fn target<'a>(&self, op: &'a Self::Op) -> Option<&'a [u8]> {
            Some(op.as_bytes()).filter(|target| !target.is_empty())
        }

        async fn write(&self, _: &Batch<Self::Op>) -> Result<Outcome, SinkError> {
            Ok(Outcome::written())
        }
    }

    /// The rule, word for word: what the store asks for again, and every later item that must stay behind an item sent
    /// again, because they share a target or because one of the two has none.
    fn naive(ops: &[&str], retry: &[usize]) -> Vec<usize> {
        let mut again: Vec<usize> = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            let behind = again.iter().any(|earlier| ops[*earlier] == *op || ops[*earlier].is_empty() || op.is_empty());
            if behind || retry.contains(&index) {
                again.push(index);
            }
        }
        again
    }

    fn items(ops: &[&'static str]) -> Vec<Item<&'static str>> {
        ops.iter().enumerate().map(|(index, op)| Item { offset: 10 + index as i64, op: *op }).collect()
    }

    fn outcome(verdicts: &[(usize, Verdict)]) -> Outcome {
        let mut outcome = Outcome::written();
        for (index, verdict) in verdicts {
            outcome.set(*index, verdict.clone());
        }
        outcome
    }

    proptest! {
        #[test]
        fn whatever_must_stay_behind_an_item_sent_again_is_sent_again(
            ops in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", ""]), 0..12),
            verdicts in prop::collection::vec(0..5, 12),
        ) {
            let (mut named, mut retry) = (Vec::new(), Vec::new());
            for (index, verdict) in verdicts.iter().enumerate().take(ops.len()) {
                match verdict {
                    0 => {
                        retry.push(index);
                        named.push((index, Verdict::Retry));
                    }
                    1 => named.push((index, Verdict::Superseded)),
                    2 => named.push((index, Verdict::Rejected(Rejection::new("no")))),
                    3 => named.push((index, Verdict::Expired)),
                    _ => {}
                }
            }
            // The order in which a sink names its exceptions means nothing.
            named.reverse();
            let answer = Answer::read(&Words { atomic: false }, &items(&ops), outcome(&named));
            prop_assert_eq!(&answer.again, &naive(&ops, &retry));
            prop_assert_eq!(answer.retried, !retry.is_empty());
            // Every item meets exactly one fate or is sent again.
            let settled = answer.written + answer.superseded + answer.expired + answer.rejected.len();
            prop_assert_eq!(settled + answer.again.len(), ops.len());
        }
    }

    #[test]
    fn an_item_without_a_target_that_is_sent_again_takes_everything_behind_it_along() {
        let answer = Answer::read(&Words { atomic: false }, &items(&["a", "", "b"]), outcome(&[(0, Verdict::Retry)]));
        assert_eq!(answer.again, [0, 1, 2]);
    }

    #[test]
    fn an_atomic_sink_goes_on_behind_the_item_that_it_rejected() {
        let verdicts = outcome(&[(1, Verdict::Rejected(Rejection::new("no")))]);
        let items = items(&["a", "b", "c"]);
        let answer = Answer::read(&Words { atomic: true }, &items, verdicts);
        assert_eq!((answer.written, answer.again.as_slice()), (1, &[2][..]));
        let source = crate::TopicPartition::new("t", 0);
        let left = remainder(true, Batch { source, expected: None, first: 10, next: 13, items }, &answer);
        assert_eq!((left.first, left.expected, left.next), (11, Some(11), 13));
        assert_eq!(left.items.iter().map(|item| item.offset).collect::<Vec<_>>(), [12]);
    }

    /// Answers each write with the next of these outcomes.
    struct Scripted(std::sync::Mutex<std::collections::VecDeque<Outcome>>);

    impl Sink for Scripted {
        type Op = &'static str;

        fn prepare(&self, _: &Record) -> Result<Option<Self::Op>, Rejection> {
            Ok(None)
        }

        fn target<'a>(&self, op: &'a Self::Op) -> Option<&'a [u8]> {
            Some(op.as_bytes())
        }

        async fn write(&self, _: &Batch<Self::Op>) -> Result<Outcome, SinkError> {
            Ok(self.0.lock().expect("a test").pop_front().expect("no more writes than outcomes"))
        }
    }

    /// How long a lane takes whose two items are answered like this at first, and taken then. The store itself takes no time.
    async fn time_to_end(first: Outcome) -> Duration {
        let scripted = Scripted(std::sync::Mutex::new([first, Outcome::written()].into()));
        let ledger = crate::Ledgers::default().of(&crate::TopicPartition::new("t", 0));
        let lane = Lane {
            sink: &scripted,
            dead_letters: &DeadLetters::Drop,
            write_timeout: Duration::from_secs(30),
            jitter_seed: 0,
            records: &[],
        };
        let source = crate::TopicPartition::new("t", 0);
        let batch = Batch { source, expected: None, first: 10, next: 12, items: items(&["a", "a"]) };
        let started = Instant::now();
        assert_eq!(lane.run(batch, InHand::read(&ledger, 2, 2)).await, LaneEnd::Done);
        assert!(scripted.0.lock().expect("a test").is_empty(), "what was left was sent again");
        started.elapsed()
    }

    /// A sink that stops behind what it rejects asks for the rest again, and each of many bad records would cost a delay.
    #[tokio::test(start_paused = true)]
    async fn what_stood_behind_a_rejected_item_is_sent_again_at_once() {
        let rejected = Verdict::Rejected(Rejection::new("no"));
        assert_eq!(time_to_end(outcome(&[(0, rejected), (1, Verdict::Retry)])).await, Duration::ZERO);
        let refused = time_to_end(outcome(&[(1, Verdict::Retry)])).await;
        assert!(refused >= crate::retry::FIRST, "where nothing was rejected the store needs time: {refused:?}");
    }
}
