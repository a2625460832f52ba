//! Starts and stops partitions as they are assigned, commits their offsets, and drains at the end.

mod commit;
mod drain;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::commit::{Committing, answer};
use crate::assignment::{Assignment, Change};
use crate::health::Health;
use crate::mutants::mutant;
use crate::partition::{Ended, Partition};
use crate::pipeline::Pipeline;
use crate::record::TopicPartition;
use crate::retry::{Retry, bounded};
use crate::settings::Stop;
use crate::sink::{Assigned, Sink, SinkError};
use crate::source::Source;

/// Offsets are committed at most this often; the loop's other chores are done as often.
const TICK: Duration = Duration::from_secs(1);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Everything is written that was there at the start (`CONNECT_KAFKA_STOP=end`).
    Finished,
    /// Asked to stop; what was in hand is written and committed.
    Drained,
    /// Asked to stop, but when `CONNECT_DRAIN_TIMEOUT` passed something was still in hand, or Kafka had not taken the last
    /// offsets. Nothing of it is committed.
    DrainTimeout,
}

/// Runs a pipeline until it is asked to stop, has reached its end, or cannot go on.
///
/// # Errors
/// What a person must mend, in words for the log. The other partitions have been drained by then.
pub async fn supervise<S: Source, K: Sink, A: Assignment>(
    pipeline: Arc<Pipeline<S, K>>,
    mut assignment: A,
    health: Arc<Health>,
    shutdown: CancellationToken,
) -> Result<RunEnd, String> {
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => Some(Ok(RunEnd::Drained)),
        checked = health.ticking(check(&pipeline)) => checked.err().map(Err),
    };
    if let Some(end) = ended {
        health.set_draining();
        // The assignment began its work before the store was ready: the others would wait for our session's end.
        assignment.leave().await;
        return end;
    }
    health.set_store_checked();
    let supervisor = Supervisor {
        pipeline,
        assignment,
        health,
        tasks: JoinSet::new(),
        owned: BTreeSet::new(),
        running: BTreeMap::new(),
        handing_over: Vec::new(),
        committing: None,
        finished: BTreeSet::new(),
        nothing_left: false,
    };
    supervisor.run(shutdown).await
}

/// Asks the store until it answers.
async fn check<S: Source, K: Sink>(pipeline: &Pipeline<S, K>) -> Result<(), String> {
    let mut retry = Retry::new("checking the store", pipeline.settings.jitter_seed);
    loop {
        match bounded(pipeline.settings.write_timeout, pipeline.sink.check()).await {
            Ok(()) => {
                retry.succeeded();
                return Ok(());
            }
            Err(SinkError::Transient { reason, message }) => retry.wait(reason, &message).await,
            Err(error @ (SinkError::OutOfStep { .. } | SinkError::Fatal(_))) => return Err(error.to_string()),
        }
    }
}

/// A partition with a task of its own.
struct Running {
    task: Id,
    drain: CancellationToken,
    abort: tokio::task::AbortHandle,
}

/// Partitions that another process waits for.
struct HandOver {
    partitions: Vec<TopicPartition>,
    deadline: Instant,
}

impl HandOver {
    /// Nothing of it is in hand any more.
    fn is_drained(&self, running: &BTreeMap<TopicPartition, Running>) -> bool {
        !self.partitions.iter().any(|partition| running.contains_key(partition))
    }
}

type TaskEnd = (TopicPartition, Result<Ended, String>);

struct Supervisor<S, K, A> {
    pipeline: Arc<Pipeline<S, K>>,
    assignment: A,
    health: Arc<Health>,
    tasks: JoinSet<TaskEnd>,
    /// What is ours to commit, also when its task has ended.
    owned: BTreeSet<TopicPartition>,
    running: BTreeMap<TopicPartition, Running>,
    handing_over: Vec<HandOver>,
    committing: Option<Committing>,
    /// What has reached the end that `CONNECT_KAFKA_STOP=end` names.
    finished: BTreeSet<TopicPartition>,
    /// The others have reached it too, while nothing was ours.
    nothing_left: bool,
}

impl<S: Source, K: Sink, A: Assignment> Supervisor<S, K, A> {
    async fn run(mut self, shutdown: CancellationToken) -> Result<RunEnd, String> {
        let mut ticker = interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let fatal = loop {
            let in_hand = self.handing_over.iter().filter(|hand_over| !hand_over.is_drained(&self.running));
            let deadline = in_hand.map(|hand_over| hand_over.deadline).min();
            let fatal = tokio::select! {
                biased;
                () = shutdown.cancelled() => break None,
                Some(end) = self.tasks.join_next_with_id() => self.task_ended(end).err(),
                change = self.assignment.next() => match change {
                    Ok(change) => {
                        self.change(change);
                        None
                    }
                    Err(error) => Some(error.to_string()),
                },
                answer = answer(&mut self.committing) => self.committed(answer).await.err(),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.hand_over_is_due();
                    None
                }
                _ = ticker.tick() => {
                    self.health.tick();
                    self.commit(Vec::new());
                    None
                }
            };
            if fatal.is_some() {
                break fatal;
            }
            self.hand_over();
            if self.finished() {
                break None;
            }
        };
        let finished = self.finished();
        let drained = self.drain().await;
        match (fatal, drained) {
            (Some(fatal), _) | (None, Err(fatal)) => Err(fatal),
            (None, Ok(_)) if finished => Ok(RunEnd::Finished),
            (None, Ok(true)) => Ok(RunEnd::Drained),
            (None, Ok(false)) => Ok(RunEnd::DrainTimeout),
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::NothingLeft => self.nothing_left = true,
            Change::Assigned(partitions) => {
                self.health.set_assigned();
                self.nothing_left = false;
                for assigned in partitions {
                    self.start(assigned);
                }
            }
            Change::Revoked { partitions, within } => {
                info!(?partitions, "partitions go to another process; finishing what is in hand");
                for partition in &partitions {
                    if let Some(running) = self.running.get(partition) {
                        running.drain.cancel();
                    }
                }
                let within = within.min(self.pipeline.settings.drain_timeout);
                self.handing_over.push(HandOver { partitions, deadline: Instant::now() + within });
            }
            Change::Lost(partitions) => self.lose(partitions),
        }
        self.health.set_partitions(self.running.len());
    }

    fn lose(&mut self, partitions: Vec<TopicPartition>) {
        warn!(?partitions, "partitions are no longer ours; what is in hand is left to their new owner");
        for partition in partitions {
            self.owned.remove(&partition);
            // Should it come back, neither an old promise to hand it over nor an old commit speaks of it.
            for hand_over in &mut self.handing_over {
                hand_over.partitions.retain(|promised| *promised != partition);
            }
            if let Some(committing) = &mut self.committing {
                committing.forget(&partition);
            }
            if let Some(running) = self.running.remove(&partition) {
                running.abort.abort();
            }
            self.pipeline.ledgers.of(&partition).give_up();
        }
    }

    fn start(&mut self, assigned: Assigned) {
        let partition = assigned.partition.clone();
        if self.running.contains_key(&partition) {
            debug!(%partition, "assigned again while running");
            return;
        }
        info!(%partition, committed = ?assigned.committed, "partition assigned");
        let ledger = self.pipeline.ledgers.of(&partition);
        ledger.take_up();
        if let Some(committed) = assigned.committed {
            ledger.set_committed(committed);
        }
        let drain = CancellationToken::new();
        let work = Partition { pipeline: Arc::clone(&self.pipeline), assigned, ledger, drain: drain.clone() };
        let name = partition.clone();
        let abort = self.tasks.spawn(async move { (name, work.run().await) });
        self.finished.remove(&partition);
        self.owned.insert(partition.clone());
        self.running.insert(partition, Running { task: abort.id(), drain, abort });
    }

    /// Takes note of a task's end.
    ///
    /// # Errors
    /// What stops the process.
    fn task_ended(&mut self, end: Result<(Id, TaskEnd), JoinError>) -> Result<(), String> {
        let (id, result) = match end {
            Ok((id, (partition, result))) => {
                let ours = self.running.get(&partition).is_some_and(|running| running.task == id);
                if ours && result == Ok(Ended::Finished) {
                    self.finished.insert(partition);
                }
                (id, result.map(drop))
            }
            Err(error) if error.is_cancelled() => (error.id(), Ok(())),
            // The panic itself has been logged, without what it may quote of a record.
            Err(error) => (error.id(), Err("a partition's task panicked; this is a bug, please report it".to_owned())),
        };
        self.running.retain(|_, running| running.task != id);
        self.health.set_partitions(self.running.len());
        result
    }

    /// Whether all that is ours has reached its end. A member that has nothing stands by for what others leave, until
    /// nothing is left at all.
    fn finished(&self) -> bool {
        let to_the_end = self.pipeline.settings.stop == Stop::End;
        let all = if self.owned.is_empty() { self.nothing_left } else { self.owned.is_subset(&self.finished) };
        to_the_end && all && self.handing_over.is_empty()
    }

    /// Gives up what is drained by now, once it is committed.
    fn hand_over(&mut self) {
        if self.committing.is_some() {
            return;
        }
        let running = &self.running;
        let drained = |hand_over: &mut HandOver| mutant!(HandOverAtOnce) || hand_over.is_drained(running);
        let drained = self.handing_over.extract_if(.., drained);
        let given_up: Vec<_> = drained.flat_map(|hand_over| hand_over.partitions).collect();
        if !given_up.is_empty() {
            self.commit(given_up);
        }
    }

    /// The others wait no longer: what is still in hand is given back unwritten and uncommitted.
    fn hand_over_is_due(&mut self) {
        let now = Instant::now();
        for hand_over in self.handing_over.iter().filter(|hand_over| hand_over.deadline <= now) {
            for partition in &hand_over.partitions {
                if let Some(running) = self.running.remove(partition) {
                    warn!(%partition, "not drained in time; its new owner writes the rest");
                    running.abort.abort();
                }
            }
        }
        self.health.set_partitions(self.running.len());
    }
}
