//! Waiting for new records of many partitions with one request at a time, in a fetch session.
//!
//! A partition at its end asks here. The requests that have come together go to the broker as one, which holds it back
//! until one of them has something. A request on its way cannot be added to; therefore it waits only a short while,
//! so that who comes too late is not kept waiting, and a moment is left for those who were just answered to come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::error::KafkaError;
use super::fetch::{self, Answer, Limits, Question};
use super::fetch_session::FetchSession;
use super::wire::{Cluster, Purpose};
use crate::record::TopicPartition;

/// How long a broker holds back an answer without records.
const BROKER_WAIT: Duration = Duration::from_millis(100);
/// After this long a partition is told that there is nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long those just answered have to come back and be part of the next request.
const RETURN: Duration = Duration::from_millis(5);
/// The time between two requests for each partition that they are about: the records that come meanwhile are handed out
/// together, and a write costs the same for one record as for a few. While a request is held back, every record that arrives has
/// the broker look at all its partitions, too.
const REST: Duration = Duration::from_micros(200);
/// What a partition may bring here; one with more fell behind and reads by itself from then on.
const PARTITION_BYTES: usize = 64 << 10;
/// What all of them together may bring: this much, and a batch more, is held before it is charged.
const BYTES: usize = 2 << 20;
const QUEUE: usize = 1024;

struct Waiter {
    question: Question,
    since: Instant,
    answer: oneshot::Sender<Result<Answer, KafkaError>>,
}

impl AsRef<Question> for Waiter {
    fn as_ref(&self) -> &Question {
        &self.question
    }
}

type Waiting = HashMap<TopicPartition, Waiter>;

/// Waits at one broker. Its task ends when the poller is dropped.
pub(super) struct Poller {
    waiters: mpsc::Sender<Waiter>,
    task: tokio::task::JoinHandle<()>,
}

impl Poller {
    pub(super) fn new(cluster: Arc<Cluster>, node: i32) -> Self {
        let (waiters, queue) = mpsc::channel(QUEUE);
        Self { waiters, task: tokio::spawn(poll(cluster, node, queue)) }
    }

    /// Waits for records, or about half a second.
    pub(super) async fn wait(&self, question: Question) -> Result<Answer, KafkaError> {
        let (answer, arrival) = oneshot::channel();
        let waiter = Waiter { question, since: Instant::now(), answer };
        let gone = || KafkaError::transient("connection", "Kafka: the connection was given up");
        self.waiters.send(waiter).await.map_err(|_| gone())?;
        // The poller bounds each of its requests, so an answer comes.
        arrival.await.map_err(|_| gone())?
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn poll(cluster: Arc<Cluster>, node: i32, mut queue: mpsc::Receiver<Waiter>) {
    let mut waiting = Waiting::new();
    let mut session = FetchSession::default();
    let mut answered = 0;
    // Of a partition whose caller asks again, the latest counts.
    let add = |waiting: &mut Waiting, waiter: Waiter| waiting.insert(waiter.question.partition.clone(), waiter);
    let (mut asked, mut bytes) = (Instant::now(), 0);
    loop {
        if waiting.is_empty() {
            let Some(waiter) = queue.recv().await else { return };
            add(&mut waiting, waiter);
            answered -= i32::from(answered > 0);
        }
        let back = Instant::now() + RETURN;
        // Whoever is in the queue already is taken even when the time is over.
        loop {
            let rested = asked + rest(waiting.len(), bytes);
            let until = if answered > 0 { back.max(rested) } else { rested };
            let Ok(Some(waiter)) = timeout_at(until, queue.recv()).await else { break };
            add(&mut waiting, waiter);
            answered -= i32::from(answered > 0);
        }
        waiting.retain(|_, waiter| !waiter.answer.is_closed());
        if waiting.is_empty() {
            continue;
        }
        asked = Instant::now();
        match ask(&cluster, node, &mut session, &waiting).await {
            Ok(answers) => {
                bytes = answers.iter().map(|answer| answer.records.len()).sum();
                answered = distribute(&mut waiting, &session, answers);
            }
            Err(error) => {
                for (_, waiter) in waiting.drain() {
                    let _ = waiter.answer.send(Err(error.clone()));
                }
                (answered, bytes) = (0, 0);
            }
        }
    }
}

/// How long to wait after a request that brought so many bytes. One that was half full has left something behind, or the next
/// one will: with a rest there would come more than can be fetched.
fn rest(partitions: usize, bytes: usize) -> Duration {
    if bytes > BYTES / 2 { Duration::ZERO } else { REST * partitions as u32 }
}

async fn ask(
    cluster: &Cluster,
    node: i32,
    session: &mut FetchSession,
    waiting: &Waiting,
) -> Result<Vec<Answer>, KafkaError> {
    let limits = Limits { wait: BROKER_WAIT, bytes: BYTES, partition_bytes: PARTITION_BYTES };
    let mut again = true;
    loop {
        let changes = session.changes(waiting);
        // Where the answer gets lost on the way, also because this future is dropped, the broker may be a step ahead.
        session.lost(None);
        let connection = cluster.broker(node, Purpose::Wait).await?;
        let (reply, _) = fetch::fetch(&connection, cluster, &changes, limits, None).await?;
        let Some(error) = reply.refused else {
            session.answered(changes.place, &reply);
            return Ok(reply.answers);
        };
        session.lost(Some(error));
        // The broker ends sessions as it needs the room: a new one is asked for at once.
        if !std::mem::take(&mut again) {
            return Err(fetch::refused(&connection, error));
        }
    }
}

/// Hands out what came, and "nothing" to those who waited long enough; says to how many.
fn distribute(waiting: &mut Waiting, session: &FetchSession, answers: Vec<Answer>) -> i32 {
    let mut handed_out = 0;
    let mut hand_out = |waiter: Waiter, answer| handed_out += i32::from(waiter.answer.send(answer).is_ok());
    for mut answer in answers {
        if answer.error.is_none() && answer.preferred_replica.is_none() && answer.records.is_empty() {
            continue;
        }
        let Some(waiter) = waiting.remove(&answer.partition) else { continue };
        // A copy of its own: a slice would keep the records of all the others in memory.
        answer.records = Bytes::copy_from_slice(&answer.records);
        hand_out(waiter, Ok(answer));
    }
    let now = Instant::now();
    for (partition, waiter) in waiting.extract_if(|_, waiter| now.saturating_duration_since(waiter.since) >= PATIENCE) {
        hand_out(waiter, session.last(&partition).ok_or_else(|| fetch::lacking(&partition)));
    }
    handed_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_many_partitions_rests_unless_there_is_more_than_one_answer_holds() {
        assert!(rest(4, 0) < Duration::from_millis(1));
        assert_eq!(rest(1_000, BYTES / 2), Duration::from_millis(200));
        assert_eq!(rest(1_000, BYTES / 2 + 1), Duration::ZERO);
    }
}
