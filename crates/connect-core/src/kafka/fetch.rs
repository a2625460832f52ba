//! One fetch request and its answer, partition by partition.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest};
use kafka_protocol::protocol::StrBytes;

use super::batch::Aborted;
use super::error::KafkaError;
use super::fetch_session::Changes;
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

/// What a broker says.
#[derive(Debug)]
pub(super) struct Reply {
    /// It refuses the request as a whole, as when it no longer knows the session.
    pub refused: Option<ResponseError>,
    /// The session's id; 0 for none.
    pub session: i32,
    pub answers: Vec<Answer>,
}

impl Answer {
    /// What of it holds for as long as the broker is silent. That a replica nearby is to be read it would say again.
    pub(super) fn standing(&self) -> Self {
        let (partition, aborted, records) = (self.partition.clone(), Vec::new(), Bytes::new());
        Self { partition, aborted, records, preferred_replica: None, ..*self }
    }
}

/// Fetches from one broker.
pub(super) async fn fetch(
    connection: &BrokerConnection,
    cluster: &Cluster,
    changes: &Changes<'_>,
    limits: Limits,
    room: Option<Room>,
) -> Result<(Reply, Charge), KafkaError> {
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(clamp(limits.wait.as_millis() as usize))
        .with_min_bytes(if limits.wait.is_zero() { 0 } else { 1 })
        .with_max_bytes(clamp(limits.bytes))
        .with_isolation_level(cluster.config().isolation.level())
        .with_session_id(changes.place.session)
        .with_session_epoch(changes.place.epoch)
        .with_topics(topics(&changes.questions, limits))
        .with_forgotten_topics_data(forgotten(&changes.forgotten))
        .with_rack_id(StrBytes::from_string(cluster.rack().to_owned()));
    let (response, charge) = connection.call_charged(&request, FETCH, limits.wait + REQUEST_TIMEOUT, room).await?;
    let mut answers = Vec::with_capacity(response.responses.iter().map(|topic| topic.partitions.len()).sum());
    for topic in response.responses {
        let name = Arc::<str>::from(&**topic.topic);
        answers.extend(topic.partitions.into_iter().map(|partition| answer(&name, partition)));
    }
    let refused = ResponseError::try_from_code(response.error_code);
    Ok((Reply { refused, session: response.session_id, answers }, charge))
}

/// The error for a request that was refused as a whole.
pub(super) fn refused(connection: &BrokerConnection, error: ResponseError) -> KafkaError {
    KafkaError::transient("broker", format!("Kafka: {}: fetch: {error:?}", connection.address()))
}

/// The error for an answer that says nothing about a partition.
pub(super) fn lacking(partition: &TopicPartition) -> KafkaError {
    KafkaError::transient("protocol", format!("{partition}: the broker's answer lacks it"))
}

/// Neighbours of the same topic share its name.
fn topics(questions: &[&Question], limits: Limits) -> Vec<FetchTopic> {
    let by_topic = questions.chunk_by(|a, b| a.partition.topic == b.partition.topic);
    let topic = |questions: &[&Question]| {
        let partition = |question: &&Question| {
            FetchPartition::default()
                .with_partition(question.partition.partition)
                .with_fetch_offset(question.offset)
                .with_current_leader_epoch(question.leader.epoch)
                .with_partition_max_bytes(clamp(limits.partition_bytes))
        };
        FetchTopic::default()
            .with_topic(topic_name(&questions[0].partition.topic))
            .with_partitions(questions.iter().map(partition).collect())
    };
    by_topic.map(topic).collect()
}

fn forgotten(partitions: &[TopicPartition]) -> Vec<ForgottenTopic> {
    let topic = |partitions: &[TopicPartition]| {
        ForgottenTopic::default()
            .with_topic(topic_name(&partitions[0].topic))
            .with_partitions(partitions.iter().map(|partition| partition.partition).collect())
    };
    partitions.chunk_by(|a, b| a.topic == b.topic).map(topic).collect()
}

fn answer(topic: &Arc<str>, partition: PartitionData) -> Answer {
    let aborted = partition.aborted_transactions.unwrap_or_default();
    let aborted = aborted.iter().map(|a| Aborted { producer_id: a.producer_id.0, first_offset: a.first_offset });
    Answer {
        partition: TopicPartition::new(Arc::clone(topic), partition.partition_index),
        error: ResponseError::try_from_code(partition.error_code),
        last_stable_offset: partition.last_stable_offset,
        high_watermark: partition.high_watermark,
        preferred_replica: Some(partition.preferred_read_replica.0).filter(|node| *node >= 0),
        aborted: aborted.collect(),
        records: partition.records.unwrap_or_default(),
    }
}

/// As the protocol has it, and it has no larger number.
fn clamp(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
