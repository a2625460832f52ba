//! The reader that passes everything Kafka stores: transactions, null headers, compacted ends, every codec.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use tokio::time::Instant;
use tracing::debug;

use super::batch::{self, BatchError};
use super::error::KafkaError;
use super::fetch::{self, Answer, Limits, Question};
use super::fetch_session::Changes;
use super::list_offsets;
use super::poller::Poller;
use super::wire::{Cluster, Purpose, Room};
use crate::budget::{Budget, Charge};
use crate::config::Isolation;
use crate::record::{Record, TopicPartition};
use crate::source::{Fetched, Position, Source, SourceError};

/// What may be made of an answer beyond what was reserved for it.
const SMALL_ROOM: usize = 256 << 10;
/// A batch of which more is made is taken for damaged or hostile.
const LARGEST_ROOM: usize = 512 << 20;
/// What is assumed to be held for each byte received before anything was.
const FIRST_EXPANSION: f32 = 3.0;
/// How long a replica nearby is read before the leader is asked again who is nearest.
const REPLICA_LEASE: Duration = Duration::from_secs(300);

/// Reads several partitions of a broker over one connection. A partition that is behind fetches by itself, so that its
/// buffers are its own; those at their end wait together.
pub struct KafkaSource {
    cluster: Arc<Cluster>,
    budget: Arc<Budget>,
    partitions: Mutex<HashMap<TopicPartition, State>>,
    pollers: Mutex<HashMap<i32, Arc<Poller>>>,
}

#[derive(Clone, Copy)]
struct State {
    behind: bool,
    /// What was held for each byte received lately: known before the next answer is read, compressed or not.
    expansion: f32,
    replica: Option<(i32, Instant)>,
}

impl Default for State {
    fn default() -> Self {
        Self { behind: false, expansion: FIRST_EXPANSION, replica: None }
    }
}

impl KafkaSource {
    /// Reads from this cluster; what is read is charged to the budget.
    pub fn new(cluster: Arc<Cluster>, budget: Arc<Budget>) -> Self {
        Self { cluster, budget, partitions: Mutex::default(), pollers: Mutex::default() }
    }

    fn state(&self, partition: &TopicPartition) -> State {
        lock(&self.partitions).get(partition).copied().unwrap_or_default()
    }

    fn update(&self, partition: &TopicPartition, change: impl FnOnce(&mut State)) {
        change(lock(&self.partitions).entry(partition.clone()).or_default());
    }

    fn poller(&self, node: i32) -> Arc<Poller> {
        let mut pollers = lock(&self.pollers);
        Arc::clone(pollers.entry(node).or_insert_with(|| Arc::new(Poller::new(Arc::clone(&self.cluster), node))))
    }

    /// Asks whoever is to be asked, once.
    async fn ask(&self, partition: &TopicPartition, offset: i64) -> Result<(Answer, Charge), KafkaError> {
        let leader = self.cluster.leader(partition).await?;
        let state = self.state(partition);
        let node = state.replica.filter(|(_, until)| Instant::now() < *until).map_or(leader.node, |(node, _)| node);
        let nearby = node != leader.node;
        let question = Question { partition: partition.clone(), offset, leader };
        let answer = if state.behind { self.read(node, &question).await } else { self.wait(node, question).await };
        if answer.is_err() {
            // Whatever it was, the leader may be another now; a replica may be gone.
            if nearby {
                self.cluster.avoid_replicas();
            }
            self.forget(partition);
        }
        answer
    }

    async fn wait(&self, node: i32, question: Question) -> Result<(Answer, Charge), KafkaError> {
        let answer = self.poller(node).wait(question).await?;
        Ok((answer, Charge::none()))
    }

    async fn read(&self, node: i32, question: &Question) -> Result<(Answer, Charge), KafkaError> {
        let connection = self.cluster.broker(node, Purpose::Read).await?;
        let bytes = self.cluster.config().fetch_bytes.as_u64() as usize;
        let limits = Limits { wait: Duration::ZERO, bytes, partition_bytes: bytes };
        let room = Some(Room { budget: Arc::clone(&self.budget), factor: self.state(&question.partition).expansion });
        let (reply, charge) = fetch::fetch(&connection, &self.cluster, &Changes::only(question), limits, room).await?;
        if let Some(error) = reply.refused {
            return Err(fetch::refused(&connection, error));
        }
        let answer = reply.answers.into_iter().find(|answer| answer.partition == question.partition);
        let answer = answer.ok_or_else(|| fetch::lacking(&question.partition))?;
        Ok((answer, charge))
    }

    fn forget(&self, partition: &TopicPartition) {
        self.cluster.forget_leader(partition);
        self.update(partition, |state| state.replica = None);
    }

    async fn look_up(&self, partition: &TopicPartition, position: Position) -> Result<i64, SourceError> {
        let found = list_offsets::look_up(&self.cluster, partition, position, self.cluster.config().isolation).await;
        if found.is_err() {
            self.forget(partition);
        }
        found
    }

    /// Decodes within what is charged. A first batch of which more is made gets more room, which is charged before.
    async fn decode(
        &self,
        partition: &TopicPartition,
        offset: i64,
        answer: Answer,
        mut charge: Charge,
    ) -> Result<(batch::Decoded, Charge), SourceError> {
        let received = answer.records.len();
        let charged = charge.bytes().saturating_sub(received);
        let mut room = charged.min(self.budget.limit() / 4).max(SMALL_ROOM);
        loop {
            match batch::decode(answer.records.clone(), partition, offset, answer.aborted.clone(), room) {
                // Brokers send the first batch whole.
                Ok(decoded) if received > 0 && decoded.next == offset => {
                    let what = format!("{partition}: the broker's answer holds no whole batch from {offset} on");
                    return Err(SourceError::transient("corrupt", what));
                }
                Ok(decoded) => return Ok((decoded, charge)),
                Err(BatchError::Room { .. }) if room < LARGEST_ROOM => {
                    room = room.saturating_mul(4).min(LARGEST_ROOM);
                    charge = self.charge(charge, received + room).await;
                }
                Err(error @ BatchError::Checksum { .. }) => {
                    let what = format!(
                        "{partition}: {error}; if it stays so, the broker's disk is damaged: let it be replicated anew"
                    );
                    return Err(SourceError::transient("corrupt", what));
                }
                Err(error) => return Err(SourceError::Fatal(format!("{partition}: {error}"))),
            }
        }
    }

    /// Charges what is really held.
    async fn charge(&self, mut charge: Charge, held: usize) -> Charge {
        if held <= charge.bytes() {
            charge.shrink_to(held);
            return charge;
        }
        // More than was reserved: give that back first, so that nobody waits for us while we wait for others.
        drop(charge);
        self.budget.reserve(held).await
    }
}

/// What is held for an answer: its bytes, what was made of them, and what a sink encodes from the records.
fn held(received: usize, decoded: &batch::Decoded) -> usize {
    if decoded.records.is_empty() {
        return 0;
    }
    let payload: usize = decoded.records.iter().map(Record::bytes).sum();
    received + decoded.made + payload
}

impl Source for KafkaSource {
    async fn fetch(&self, partition: &TopicPartition, offset: i64) -> Result<Fetched, SourceError> {
        let (answer, charge) = self.ask(partition, offset).await?;
        if let Some(node) = answer.preferred_replica {
            debug!(%partition, node, "reading from a replica nearby");
            self.update(partition, |state| state.replica = Some((node, Instant::now() + REPLICA_LEASE)));
        }
        match answer.error {
            None => {}
            Some(ResponseError::OffsetOutOfRange) => {
                self.update(partition, |state| state.replica = None);
                let (earliest, latest) = tokio::try_join!(
                    self.look_up(partition, Position::Earliest),
                    self.look_up(partition, Position::Latest)
                )?;
                return Err(SourceError::OutOfRange { earliest, latest });
            }
            Some(error) => {
                self.forget(partition);
                return Err(explain(partition, &format!("fetch from {offset}"), error));
            }
        }
        let (last_stable_offset, high_watermark) = (answer.last_stable_offset, answer.high_watermark);
        let received = answer.records.len();
        let (decoded, charge) = self.decode(partition, offset, answer, charge).await?;
        let end = if self.cluster.config().isolation == Isolation::ReadUncommitted {
            high_watermark
        } else {
            last_stable_offset
        };
        let held = held(received, &decoded);
        self.update(partition, |state| {
            state.behind = decoded.next > offset && decoded.next < end;
            if held > 0 {
                // A tenth more, as batches differ; it falls slowly and rises at once.
                let expansion = (1.0 + (held - received) as f32 / decoded.consumed as f32) * 1.1;
                state.expansion = expansion.max(state.expansion * 0.9);
            }
        });
        let charge = self.charge(charge, held).await;
        Ok(Fetched { records: decoded.records, next: decoded.next, last_stable_offset, high_watermark, charge })
    }

    async fn offset(&self, partition: &TopicPartition, position: Position) -> Result<i64, SourceError> {
        self.look_up(partition, position).await
    }
}

pub(super) fn explain(partition: &TopicPartition, what: &str, error: ResponseError) -> SourceError {
    use ResponseError as E;
    let (reason, advice) = match error {
        E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed => {
            return SourceError::Fatal(format!(
                "{partition}: {what}: not authorized: grant Read on the topic to this client (CONNECT_KAFKA_SASL_USERNAME)"
            ));
        }
        E::UnsupportedVersion | E::UnsupportedCompressionType | E::UnsupportedForMessageFormat => {
            return SourceError::Fatal(format!("{partition}: {what}: {error:?}: the broker is too old for this"));
        }
        E::NotLeaderOrFollower | E::LeaderNotAvailable | E::FencedLeaderEpoch | E::UnknownLeaderEpoch => {
            ("leader", "its leader is changing")
        }
        E::OffsetNotAvailable => ("leader", "its new leader does not know yet how far it goes"),
        E::ReplicaNotAvailable => ("broker", "the replica nearby does not have it; its leader is asked"),
        E::UnknownTopicOrPartition | E::UnknownTopicId | E::InconsistentTopicId => (
            "unknown_partition",
            "the broker does not know it (yet, or any more); check CONNECT_KAFKA_TOPICS if it stays so",
        ),
        E::KafkaStorageError => ("broker", "the broker's disk fails"),
        E::CorruptMessage => ("corrupt", "the broker finds it damaged; if it stays so, let the replica be made anew"),
        _ => ("broker", "the broker refuses"),
    };
    SourceError::transient(reason, format!("{partition}: {what}: {error:?}: {advice}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
