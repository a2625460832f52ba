//! Starts and stops partitions as they are assigned, commits their offsets, and drains at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::assignment::{Assignment, Change, CommitError};
use crate::health::Health;
use crate::mutants::mutant;
use crate::partition::{Ended, Partition};
use crate::pipeline::Pipeline;
use crate::record::TopicPartition;
use crate::retry::{FIRST, Retry, bounded};
use crate::settings::Stop;
use crate::sink::{Assigned, Sink, SinkError};
use crate::source::Source;

/// Offsets are committed at most this often; the loop's other chores are done as often.
const TICK: Duration = Duration::from_secs(1);
/// What the last commit may take beyond `CONNECT_DRAIN_TIMEOUT`. With the farewell to the group, which takes up to five seconds, it
/// has to fit into the ten that a pod gets on top (`deploy/chart`).
const LAST_COMMIT: Duration = Duration::from_secs(3);

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
            let deadline = self.handing_over.iter().map(|hand_over| hand_over.deadline).min();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break None,
                Some(end) = self.tasks.join_next_with_id() => {
                    if let Err(fatal) = self.task_ended(end) {
                        break Some(fatal);
                    }
                    if let Err(fatal) = self.hand_over(&shutdown).await {
                        break Some(fatal);
                    }
                    if self.finished() {
                        break None;
                    }
                }
                change = self.assignment.next() => match change {
                    Ok(change) => {
                        if let Err(fatal) = self.change(change, &shutdown).await {
                            break Some(fatal);
                        }
                        if self.finished() {
                            break None;
                        }
                    }
                    Err(error) => break Some(error.to_string()),
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.hand_over_is_due();
                    if let Err(fatal) = self.hand_over(&shutdown).await {
                        break Some(fatal);
                    }
                }
                _ = ticker.tick() => {
                    self.health.tick();
                    if let Err(fatal) = self.commit(shutdown.cancelled()).await {
                        break Some(fatal);
                    }
                }
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

    /// Does what a change asks for.
    ///
    /// # Errors
    /// What stops the process.
    async fn change(&mut self, change: Change, shutdown: &CancellationToken) -> Result<(), String> {
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
                self.hand_over(shutdown).await?;
            }
            Change::Lost(partitions) => self.lose(partitions),
        }
        self.health.set_partitions(self.running.len());
        Ok(())
    }

    fn lose(&mut self, partitions: Vec<TopicPartition>) {
        warn!(?partitions, "partitions are no longer ours; what is in hand is left to their new owner");
        for partition in partitions {
            self.owned.remove(&partition);
            // Should it come back, an old promise to hand it over must not take it away again.
            for hand_over in &mut self.handing_over {
                hand_over.partitions.retain(|promised| *promised != partition);
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

    /// Gives away what is drained by now.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit); then nothing is given away, and the end of the process says so.
    async fn hand_over(&mut self, shutdown: &CancellationToken) -> Result<(), String> {
        let running = &self.running;
        let done = |hand_over: &mut HandOver| {
            mutant!(HandOverAtOnce) || !hand_over.partitions.iter().any(|p| running.contains_key(p))
        };
        let ready: Vec<_> = self.handing_over.extract_if(.., done).flat_map(|hand_over| hand_over.partitions).collect();
        if ready.is_empty() {
            return Ok(());
        }
        let committed = self.commit_those(&ready, shutdown.cancelled()).await?;
        if !committed && shutdown.is_cancelled() {
            // They are still ours: the drain commits them, and who leaves the group gives them up.
            return Ok(());
        }
        self.health.ticking(self.assignment.released(&ready)).await;
        for partition in &ready {
            self.owned.remove(partition);
            self.pipeline.ledgers.of(partition).give_up();
        }
        Ok(())
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

    /// Commits what became durable since the last commit. `false` when that may work later, and when `enough` came first: a
    /// broker that swallows requests must keep nobody from stopping.
    ///
    /// # Errors
    /// What a person must mend before anything can be committed.
    async fn commit(&mut self, enough: impl Future<Output = ()>) -> Result<bool, String> {
        let owned: Vec<_> = self.owned.iter().cloned().collect();
        self.commit_those(&owned, enough).await
    }

    async fn commit_those(
        &mut self,
        partitions: &[TopicPartition],
        enough: impl Future<Output = ()>,
    ) -> Result<bool, String> {
        let ledgers = &self.pipeline.ledgers;
        let moved = partitions.iter().filter_map(|partition| {
            let ledger = ledgers.of(partition);
            let durable = ledger.durable()?;
            (ledger.committed() != Some(durable)).then(|| (partition.clone(), durable))
        });
        let offsets: Vec<_> = moved.collect();
        if offsets.is_empty() {
            return Ok(true);
        }
        let committed = tokio::select! {
            biased;
            committed = self.health.ticking(self.assignment.commit(&offsets)) => committed,
            () = enough => Err(CommitError::Transient("Kafka had not answered when it was time to stop".to_owned())),
        };
        match committed {
            Ok(()) => {
                for (partition, offset) in &offsets {
                    ledgers.of(partition).set_committed(*offset);
                }
                Ok(true)
            }
            Err(CommitError::Transient(message)) => {
                warn!("offsets not committed to Kafka, trying again soon: {message}");
                Ok(false)
            }
            Err(CommitError::Fenced(message)) => {
                warn!("offsets not committed to Kafka: {message}");
                Ok(true)
            }
            Err(CommitError::Fatal(message)) => Err(message),
        }
    }

    /// Finishes what is in hand. `Ok(false)` when the time was not enough.
    ///
    /// # Errors
    /// The first thing a person must mend that came up meanwhile; the others are logged.
    async fn drain(&mut self) -> Result<bool, String> {
        self.health.set_draining();
        let deadline = Instant::now() + self.pipeline.settings.drain_timeout;
        for running in self.running.values() {
            running.drain.cancel();
            if mutant!(DrainForgetsInFlight) {
                running.abort.abort();
            }
        }
        let (mut in_time, mut listening) = (Ok(true), true);
        loop {
            let ended = tokio::select! {
                biased;
                // Who takes long over its farewell may be given up by the group: what it still holds must not land on what the
                // new owners write.
                change = self.assignment.next(), if listening && !self.tasks.is_empty() => {
                    match change {
                        Ok(Change::Lost(partitions)) => self.lose(partitions),
                        // Nothing is begun any more, and what others wait for they get when we leave.
                        Ok(_) => {}
                        Err(_) => listening = false,
                    }
                    continue;
                }
                ended = timeout_at(deadline, self.tasks.join_next_with_id()) => ended,
            };
            match ended {
                Ok(Some(end)) => {
                    self.health.tick();
                    if let Err(message) = self.task_ended(end) {
                        error!("{message}");
                        in_time = in_time.and(Err(message));
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    let left: Vec<_> = self.running.keys().collect();
                    error!(partitions = ?left, "not drained within CONNECT_DRAIN_TIMEOUT; what is in hand is not committed and will be read again");
                    in_time = in_time.and(Ok(false));
                    break;
                }
            }
        }
        self.tasks.shutdown().await;
        // What is durable is worth some patience: without this commit it would all be read again.
        let enough = deadline.max(Instant::now() + LAST_COMMIT);
        loop {
            match self.commit(sleep_until(enough)).await {
                Ok(false) if Instant::now() < deadline => {
                    self.health.tick();
                    sleep(FIRST).await;
                }
                Ok(committed) => {
                    if !committed {
                        error!(
                            "Kafka did not take the last offsets in time; what lies behind those it has will be read again"
                        );
                    }
                    in_time = in_time.map(|in_time| in_time && committed);
                    break;
                }
                Err(message) => {
                    in_time = in_time.and(Err(message));
                    break;
                }
            }
        }
        self.assignment.leave().await;
        in_time
    }
}
