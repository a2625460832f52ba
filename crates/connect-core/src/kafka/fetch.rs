//! One fetch request and its answer, partition by partition.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest};
use kafka_protocol::protocol::StrBytes;

use super::batch::Aborted;
use super::error::KafkaError;
use super::wire::cluster::{REQUEST_TIMEOUT, topic_name};
use super::wire::{BrokerConnection, Cluster, Leader, Room};
use crate::budget::Charge;
use crate::record::TopicPartition;

/// 12 is the last version that names topics; the later ones know them by id.
const FETCH: i16 = 12;

/// What to ask for.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub partition: TopicPartition,
    pub offset: i64,
    pub leader: Leader,
}

/// What a broker says about one partition.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub partition: TopicPartition,
    pub error: Option<ResponseError>,
    pub last_stable_offset: i64,
    pub high_watermark: i64,
    pub preferred_replica: Option<i32>,
    pub aborted: Vec<Aborted>,
    pub records: Bytes,
}

/// How much to ask for, and how long a broker may wait for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub wait: Duration,
    /// Of all partitions together; a single batch may be larger.
    pub bytes: usize,
    pub partition_bytes: usize,
}

/// Fetches from one broker.
pub(super) async fn fetch(
    connection: &BrokerConnection,
    cluster: &Cluster,
    questions: &[&Question],
    limits: Limits,
    room: Option<Room>,
) -> Result<(Vec<Answer>, Charge), KafkaError> {
    let clamp = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    let mut topics: Vec<FetchTopic> = Vec::new();
    for question in questions {
        let partition = FetchPartition::default()
            .with_partition(question.partition.partition)
            .with_fetch_offset(question.offset)
            .with_current_leader_epoch(question.leader.epoch)
            .with_partition_max_bytes(clamp(limits.partition_bytes));
        match topics.last_mut().filter(|topic| *topic.topic.0 == *question.partition.topic) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(
                FetchTopic::default()
                    .with_topic(topic_name(&question.partition.topic))
                    .with_partitions(vec![partition]),
            ),
        }
    }
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(clamp(limits.wait.as_millis() as usize))
        .with_min_bytes(if limits.wait.is_zero() { 0 } else { 1 })
        .with_max_bytes(clamp(limits.bytes))
        .with_isolation_level(cluster.config().isolation.level())
        // No fetch session: each request names all of its partitions.
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics)
        .with_rack_id(StrBytes::from_string(cluster.rack().to_owned()));
    let (response, charge) = connection.call_charged(&request, FETCH, limits.wait + REQUEST_TIMEOUT, room).await?;
    if let Some(error) = ResponseError::try_from_code(response.error_code) {
        return Err(KafkaError::transient("broker", format!("Kafka: {}: fetch: {error:?}", connection.address())));
    }
    let mut answers = Vec::with_capacity(questions.len());
    for topic in response.responses {
        let name: Arc<str> = match questions.iter().find(|question| *question.partition.topic == **topic.topic) {
            Some(question) => Arc::clone(&question.partition.topic),
            None => continue,
        };
        for partition in topic.partitions {
            let aborted = partition.aborted_transactions.unwrap_or_default();
            answers.push(Answer {
                partition: TopicPartition::new(Arc::clone(&name), partition.partition_index),
                error: ResponseError::try_from_code(partition.error_code),
                last_stable_offset: partition.last_stable_offset,
                high_watermark: partition.high_watermark,
                preferred_replica: Some(partition.preferred_read_replica.0).filter(|node| *node >= 0),
                aborted: aborted
                    .iter()
                    .map(|a| Aborted { producer_id: a.producer_id.0, first_offset: a.first_offset })
                    .collect(),
                records: partition.records.unwrap_or_default(),
            });
        }
    }
    Ok((answers, charge))
}
