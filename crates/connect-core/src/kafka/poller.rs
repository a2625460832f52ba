//! Waiting for new records of many partitions with one request at a time.
//!
//! A partition at its end asks here. The requests that have come together go to the broker as one, which holds it back
//! until one of them has something. A request on its way cannot be added to; therefore it waits only a short while,
//! so that who comes too late is not kept waiting, and a moment is left for those who were just answered to come back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::error::KafkaError;
use super::fetch::{self, Answer, Limits, Question};
use super::wire::{Cluster, Purpose};

/// How long a broker holds back an answer without records.
const BROKER_WAIT: Duration = Duration::from_millis(100);
/// After this long a partition is told that there is nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long those just answered have to come back and be part of the next request.
const RETURN: Duration = Duration::from_millis(5);
/// What a partition may bring here; one with more fell behind and reads by itself from then on.
const PARTITION_BYTES: usize = 64 << 10;
/// What all of them together may bring: this much, and a batch more, is held before it is charged.
const BYTES: usize = 512 << 10;
const QUEUE: usize = 1024;

struct Waiter {
    question: Question,
    since: Instant,
    answer: oneshot::Sender<Result<Answer, KafkaError>>,
}

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
    let mut waiting: Vec<Waiter> = Vec::new();
    let mut answered = 0;
    loop {
        if waiting.is_empty() {
            let Some(waiter) = queue.recv().await else { return };
            waiting.push(waiter);
            answered -= i32::from(answered > 0);
        }
        let deadline = Instant::now() + RETURN;
        while answered > 0 {
            let Ok(Some(waiter)) = timeout_at(deadline, queue.recv()).await else { break };
            waiting.push(waiter);
            answered -= 1;
        }
        while let Ok(waiter) = queue.try_recv() {
            waiting.push(waiter);
        }
        waiting.retain(|waiter| !waiter.answer.is_closed());
        if waiting.is_empty() {
            continue;
        }
        // Sorted, so that a topic is named once; of a partition whose caller asked again, the latest counts.
        waiting.sort_by(|a, b| (&a.question.partition, b.since).cmp(&(&b.question.partition, a.since)));
        waiting.dedup_by(|later, earlier| later.question.partition == earlier.question.partition);
        match ask(&cluster, node, &waiting).await {
            Ok(answers) => answered = distribute(&mut waiting, answers),
            Err(error) => {
                for waiter in waiting.drain(..) {
                    let _ = waiter.answer.send(Err(error.clone()));
                }
                answered = 0;
            }
        }
    }
}

async fn ask(cluster: &Arc<Cluster>, node: i32, waiting: &[Waiter]) -> Result<Vec<Answer>, KafkaError> {
    let connection = cluster.broker(node, Purpose::Wait).await?;
    let questions: Vec<&Question> = waiting.iter().map(|waiter| &waiter.question).collect();
    let limits = Limits { wait: BROKER_WAIT, bytes: BYTES, partition_bytes: PARTITION_BYTES };
    let (answers, _) = fetch::fetch(&connection, cluster, &questions, limits, None).await?;
    Ok(answers)
}

/// Hands out what came, and "nothing" to those who waited long enough; says to how many.
fn distribute(waiting: &mut Vec<Waiter>, answers: Vec<Answer>) -> i32 {
    let now = Instant::now();
    let mut handed_out = 0;
    let mut answers: std::collections::HashMap<_, _> =
        answers.into_iter().map(|answer| (answer.partition.clone(), answer)).collect();
    let mut index = 0;
    while index < waiting.len() {
        let waiter = &waiting[index];
        let answer = answers.remove(&waiter.question.partition);
        let ready = match &answer {
            Some(answer) => answer.error.is_some() || answer.preferred_replica.is_some() || !answer.records.is_empty(),
            None => false,
        };
        if !ready && now.saturating_duration_since(waiter.since) < PATIENCE {
            index += 1;
            continue;
        }
        let waiter = waiting.swap_remove(index);
        let answer = answer.map(|mut answer| {
            // A copy of its own: a slice would keep the records of all the others in memory.
            answer.records = Bytes::copy_from_slice(&answer.records);
            answer
        });
        let answer = answer.ok_or_else(|| {
            KafkaError::transient("protocol", format!("{}: the broker's answer lacks it", waiter.question.partition))
        });
        handed_out += i32::from(waiter.answer.send(answer).is_ok());
    }
    handed_out
}
