//! One partition's life: resume, fetch, prepare, write, advance.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::cut::{Cut, cut};
use crate::hand::InHand;
use crate::lane::{Hold, Lane, bury};
use crate::lanes;
use crate::ledger::{Fate, Ledger};
use crate::mutants::mutant;
use crate::pipeline::Pipeline;
use crate::retry::{FIRST, LONGEST, Retry, bounded};
use crate::settings::{OutOfRange, Start, Stop};
use crate::sink::{Assigned, Batch, Resume, Sink, SinkError};
use crate::source::{Fetched, Position, Source, SourceError};

/// A record that holds its partition is named in the log this often, and then tried again.
const NAME_AGAIN: Duration = Duration::from_secs(60);

/// How a partition's work ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Asked to stop: what was in hand is written.
    Drained,
    /// Everything is written that was there at the start.
    Finished,
}

/// Why a partition does not simply read on.
#[derive(Debug)]
enum Halt {
    Ended(Ended),
    /// `at`: offset of the first record that is not settled.
    Held {
        at: i64,
        hold: Hold,
    },
    OutOfRange {
        at: i64,
        earliest: i64,
        latest: i64,
    },
    Fatal(String),
}

/// A partition that this process works on.
pub(crate) struct Partition<S, K> {
    pub(crate) pipeline: Arc<Pipeline<S, K>>,
    pub(crate) assigned: Assigned,
    pub(crate) ledger: Arc<Ledger>,
    /// Cancelled when the partition must stop fetching and finish what is in hand.
    pub(crate) drain: CancellationToken,
}

/// Where a partition stands: the next offset to read, and the one that an atomic sink must find stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    position: i64,
    expected: Option<i64>,
}

impl<S: Source, K: Sink> Partition<S, K> {
    /// Works until asked to stop, or until the end where `CONNECT_KAFKA_STOP=end`.
    ///
    /// # Errors
    /// What a person must mend.
    pub(crate) async fn run(self) -> Result<Ended, String> {
        let drained = self.drain.clone();
        let end = tokio::select! {
            biased;
            () = drained.cancelled() => return Ok(Ended::Drained),
            end = self.end() => end?,
        };
        loop {
            let standing = tokio::select! {
                biased;
                () = drained.cancelled() => return Ok(Ended::Drained),
                standing = self.take_up() => standing?,
            };
            let pause = match self.stream(standing, end).await {
                Halt::Ended(ended) => return Ok(ended),
                Halt::Fatal(message) => return Err(message),
                Halt::Held { at, hold } => self.held(at, hold)?,
                Halt::OutOfRange { at, earliest, latest } => {
                    self.out_of_range(at, earliest, latest).await?;
                    continue;
                }
            };
            tokio::select! {
                biased;
                () = drained.cancelled() => return Ok(Ended::Drained),
                () = sleep(pause) => {}
            }
        }
    }

    /// The offset to stop at.
    async fn end(&self) -> Result<Option<i64>, String> {
        match self.pipeline.settings.stop {
            Stop::Never => Ok(None),
            Stop::End => {
                let end = self.offset(Position::Latest).await?;
                Ok(Some(end - i64::from(mutant!(FinishEarly))))
            }
        }
    }

    /// Finds out where to go on: what the store says, else what this process or Kafka knows, else the start setting.
    async fn take_up(&self) -> Result<Standing, String> {
        let kept = self.ledger.durable();
        let known = kept.or(self.assigned.committed);
        let (position, expected) = match self.resume().await? {
            Resume::At(_) if mutant!(IgnoreRewind) && known.is_some() => (known.unwrap_or_default(), known),
            Resume::At(offset) => (offset, Some(offset)),
            // A store that lost everything while this process or Kafka knew a place must not skip what lies behind it.
            Resume::Empty => (self.start().await?.min(known.unwrap_or(i64::MAX)), None),
            Resume::NotKept => match known {
                Some(offset) => (offset, None),
                None => (self.start().await?, None),
            },
        };
        let partition = &self.assigned.partition;
        match known {
            Some(known) if self.was_set_elsewhere(kept, expected, known) => warn!(
                %partition, position, committed = known,
                "another program has set the group's offset, but this store keeps its offset with the data and goes on there; \
                 to go on elsewhere stop all processes of this connector and run `offsets reset --to offset:{known}`"
            ),
            Some(known) if position < known => {
                counter!("connect_rewinds_total").increment(1);
                warn!(%partition, position, known, "the store went back: what it lost is written again");
            }
            Some(known) if position > known => info!(%partition, position, known, "the store is further on"),
            _ => debug!(%partition, position, "taken up"),
        }
        // The first commit waits until an atomic sink holds the offset: one without the other would look like a loss.
        if expected.is_some() || known.is_some() || !self.pipeline.sink.atomic() {
            self.ledger.advance(position);
        }
        Ok(Standing { position, expected })
    }

    /// Whether another program committed an offset that our store, which keeps its own, does not follow.
    fn was_set_elsewhere(&self, kept: Option<i64>, stored: Option<i64>, committed: i64) -> bool {
        self.assigned.committed_by_other && kept.is_none() && stored.is_some_and(|stored| stored != committed)
    }

    async fn resume(&self) -> Result<Resume, String> {
        let mut retry = self.retry("resuming");
        loop {
            match bounded(self.pipeline.settings.write_timeout, self.pipeline.sink.resume(&self.assigned)).await {
                Ok(resume) => {
                    retry.succeeded();
                    return Ok(resume);
                }
                Err(SinkError::Transient { reason, message }) => retry.wait(reason, &message).await,
                Err(error @ (SinkError::OutOfStep { .. } | SinkError::Fatal(_))) => return Err(error.to_string()),
            }
        }
    }

    async fn start(&self) -> Result<i64, String> {
        if let Some(start) = self.assigned.start {
            return Ok(start);
        }
        match self.pipeline.settings.start {
            Start::Earliest => self.offset(Position::Earliest).await,
            Start::Latest => self.offset(Position::Latest).await,
            Start::Timestamp(timestamp) => self.offset(Position::Timestamp(timestamp)).await,
            Start::Offset(offset) => {
                let (earliest, latest) = (self.offset(Position::Earliest).await?, self.offset(Position::Latest).await?);
                Ok(offset.clamp(earliest, latest))
            }
        }
    }

    async fn offset(&self, position: Position) -> Result<i64, String> {
        let mut retry = self.retry("looking up an offset of");
        loop {
            match self.pipeline.source.offset(&self.assigned.partition, position).await {
                Ok(offset) => return Ok(offset),
                Err(SourceError::Transient { reason, message }) => retry.wait(reason, &message).await,
                Err(error) => return Err(format!("{}: {error}", self.assigned.partition)),
            }
        }
    }

    /// Reads and writes side by side until something ends it.
    async fn stream(&self, standing: Standing, end: Option<i64>) -> Halt {
        // One answer waits while another one is written: more would only hold memory.
        let (sender, receiver) = mpsc::channel(1);
        let fetching = self.fetch_on(standing.position, end, sender);
        let writing = self.write_on(standing, receiver);
        tokio::pin!(fetching, writing);
        tokio::select! {
            biased;
            Err(halt) = &mut writing => halt,
            // Fetching has ended and hung up: what it had read is still written.
            halt = &mut fetching => match writing.await {
                Ok(()) => halt,
                Err(halt) => halt,
            },
        }
    }

    /// Reads on until asked to stop.
    async fn fetch_on(&self, mut position: i64, end: Option<i64>, sender: mpsc::Sender<Fetched>) -> Halt {
        let mut retry = self.retry("reading");
        loop {
            if end.is_some_and(|end| position >= end) {
                return Halt::Ended(Ended::Finished);
            }
            let result = tokio::select! {
                biased;
                () = self.drain.cancelled() => return Halt::Ended(Ended::Drained),
                result = self.pipeline.source.fetch(&self.assigned.partition, position) => result,
            };
            match result {
                Ok(fetched) => {
                    retry.succeeded();
                    position = fetched.next;
                    // The writer is gone only when it has a reason of its own, which then counts.
                    if sender.send(fetched).await.is_err() {
                        return Halt::Ended(Ended::Drained);
                    }
                }
                Err(SourceError::Transient { reason, message }) => tokio::select! {
                    biased;
                    () = self.drain.cancelled() => return Halt::Ended(Ended::Drained),
                    () = retry.wait(reason, &message) => {}
                },
                Err(SourceError::OutOfRange { earliest, latest }) => {
                    return Halt::OutOfRange { at: position, earliest, latest };
                }
                Err(SourceError::Fatal(message)) => {
                    return Halt::Fatal(format!("{}: {message}", self.assigned.partition));
                }
            }
        }
    }

    /// Writes what is read, batch after batch. `Ok` when the reader hung up and everything it sent is settled.
    async fn write_on(&self, mut standing: Standing, mut receiver: mpsc::Receiver<Fetched>) -> Result<(), Halt> {
        if self.pipeline.sink.atomic() && standing.expected.is_none() {
            // The start position itself becomes durable: after a crash, `latest` must not mean a later place.
            let nothing = Fetched::empty(standing.position);
            self.write_fetched(&mut standing, nothing).await?;
        }
        while let Some(fetched) = receiver.recv().await {
            if self.drain.is_cancelled() {
                return Err(Halt::Ended(Ended::Drained));
            }
            self.ledger.observe(fetched.last_stable_offset, fetched.high_watermark);
            if fetched.records.is_empty() && fetched.next <= standing.position {
                continue;
            }
            self.write_fetched(&mut standing, fetched).await?;
        }
        Ok(())
    }

    async fn write_fetched(&self, standing: &mut Standing, fetched: Fetched) -> Result<(), Halt> {
        let pipeline = &*self.pipeline;
        if mutant!(BudgetLeak) {
            std::mem::forget(fetched.charge);
        }
        let lane = Lane {
            sink: &*pipeline.sink,
            dead_letters: &pipeline.dead_letters,
            write_timeout: pipeline.settings.write_timeout,
            jitter_seed: pipeline.settings.jitter_seed,
            records: &fetched.records,
        };
        let mut rest = &fetched.records[..];
        loop {
            let cut = cut(lane.sink, &pipeline.settings, lane.dead_letters, rest, fetched.next);
            rest = &rest[cut.taken..];
            self.write_cut(standing, &lane, cut).await?;
            if rest.is_empty() {
                return Ok(());
            }
            if self.drain.is_cancelled() {
                return Err(Halt::Ended(Ended::Drained));
            }
        }
    }

    async fn write_cut(&self, standing: &mut Standing, lane: &Lane<'_, K>, mut cut: Cut<K::Op>) -> Result<(), Halt> {
        let mut hand = InHand::read(&self.ledger, cut.taken, cut.bytes);
        hand.settle(Fate::Filtered, if mutant!(FilteredUncounted) { 0 } else { cut.filtered });
        let mut stopped = cut.stop.take().map(Hold::Rejected);
        if let Some(first) = cut.letters.first() {
            match bury(lane.dead_letters, &cut.letters, lane.jitter_seed).await {
                Ok(fate) => hand.settle(fate, cut.letters.len()),
                Err(_) if mutant!(PassFailedLetter) => {}
                Err(hold) => {
                    // What lies before the first of them can still be written, nothing behind it.
                    cut.next = first.record.offset;
                    cut.items.retain(|item| item.offset < cut.next);
                    stopped = Some(hold);
                }
            }
        }
        if mutant!(CommitBeforeWrite) {
            self.ledger.advance(cut.next);
        }
        let (durable, held) = if cut.items.is_empty() && !lane.sink.atomic() {
            (cut.next, None)
        } else {
            tokio::select! {
                biased;
                () = self.pipeline.rate.take(cut.items.len()) => {}
                // At a low rate the turn may be minutes away: a drain doesn't wait for it, and the records are given back.
                () = self.drain.cancelled() => return Err(Halt::Ended(Ended::Drained)),
            }
            let batch = Batch {
                source: self.assigned.partition.clone(),
                expected: standing.expected,
                first: standing.position,
                next: cut.next,
                items: cut.items,
            };
            lanes::write(lane, batch, &mut hand).await
        };
        // A held lane that settled nothing leaves everything as it was, also what an atomic sink must find stored.
        if held.is_none() || durable > standing.position {
            *standing = Standing { position: durable, expected: Some(durable) };
            self.ledger.advance(durable + i64::from(mutant!(CommitOneTooFar)));
        }
        match held.or(stopped) {
            Some(hold) => Err(Halt::Held { at: durable, hold }),
            None => Ok(()),
        }
    }

    /// Says why the partition waits, and for how long.
    fn held(&self, at: i64, hold: Hold) -> Result<Duration, String> {
        let partition = &self.assigned.partition;
        match hold {
            Hold::Rejected(rejection) => {
                error!(
                    %partition,
                    offset = at,
                    reason = %rejection,
                    "this record can't be written and its partition waits here; mend what the reason names, or choose \
                     CONNECT_DEAD_LETTERS=topic:NAME or drop"
                );
                Ok(NAME_AGAIN)
            }
            Hold::GaveUp => Ok(LONGEST),
            Hold::OutOfStep(stored) => {
                counter!("connect_retries_total", "reason" => "out_of_step").increment(1);
                warn!(%partition, expected = at, ?stored, "the store holds another offset than expected; asking it where to go on");
                Ok(FIRST)
            }
            Hold::Fatal(message) => Err(format!("{partition}: {message}")),
        }
    }

    /// Decides what follows when the position no longer exists.
    async fn out_of_range(&self, at: i64, earliest: i64, latest: i64) -> Result<(), String> {
        let partition = &self.assigned.partition;
        if (earliest..=latest).contains(&at) {
            // The partition's bounds moved between the broker's two answers: asking again settles it.
            sleep(FIRST).await;
            return Ok(());
        }
        if at > latest {
            return Err(format!(
                "{partition}: offset {at} is next, but the partition ends at {latest}: the topic was made anew or lost its \
                 tail. Give the connector a new CONNECT_NAME to read it from the start, or stop all its processes and run \
                 `offsets reset --to earliest` (or latest)"
            ));
        }
        let to = match self.pipeline.settings.out_of_range {
            OutOfRange::Earliest => earliest,
            OutOfRange::Latest => latest,
            OutOfRange::Fatal => {
                return Err(format!(
                    "{partition}: offset {at} is next, but the oldest record kept is {earliest}: retention deleted records \
                     before they were read. Set CONNECT_KAFKA_OUT_OF_RANGE=earliest (or latest) to go on without them"
                ));
            }
        };
        warn!(%partition, from = at, to, "records were deleted before they were read; going on without them");
        // An atomic sink has the offset moved over the gap as well, so that its expectation stays exact.
        let mut standing = Standing { position: at, expected: Some(at) };
        match self.write_fetched(&mut standing, Fetched::empty(to)).await {
            Ok(()) => {
                self.ledger.skip((to - at).max(0) as u64);
                Ok(())
            }
            Err(Halt::Held { at, hold }) => self.held(at, hold).map(drop),
            Err(Halt::Fatal(message)) => Err(message),
            Err(Halt::Ended(_) | Halt::OutOfRange { .. }) => Ok(()),
        }
    }

    fn retry(&self, what: &str) -> Retry {
        Retry::new(format_args!("{what} {}", self.assigned.partition), self.pipeline.settings.jitter_seed)
    }
}
