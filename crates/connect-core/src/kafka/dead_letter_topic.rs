//! The topic that keeps what could not be written, in the form that tools for Kafka Connect understand.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record as ProducedRecord;
use tokio::sync::Mutex;
use tracing::info;

use super::connection::{Connection, Failure, REQUEST_TIMEOUT};
use super::error::KafkaError;
use crate::dead_letters::{DeadLetter, DeadLetterError, DeadLetterTopic};

/// Letters go out in requests of about this size: well below the 1 MiB that brokers take by default.
const REQUEST_BYTES: usize = 512 << 10;
/// Lets the broker choose, as its own configuration says.
const BROKER_DEFAULT: i32 = -1;

/// Keeps dead letters in a Kafka topic, made when it is missing. A letter is the record as it was, with these headers:
/// `__connect.errors.topic`, `.partition`, `.offset`, `.connector.name` and `.exception.message`.
pub struct KafkaDeadLetterTopic {
    connection: Arc<Connection>,
    connector: String,
    topic: String,
    partitions: i32,
    replication: i16,
    open: Mutex<Option<Open>>,
}

/// The producers, once the topic is known to exist.
struct Open {
    numbers: Vec<i32>,
    producers: BTreeMap<i32, PartitionClient>,
}

impl KafkaDeadLetterTopic {
    /// Names the topic, and how to make it when it is missing: `None` leaves a number to the broker's configuration.
    pub fn new(
        connection: Arc<Connection>,
        connector: impl Into<String>,
        topic: impl Into<String>,
        partitions: Option<i32>,
        replication: Option<i16>,
    ) -> Self {
        Self {
            connection,
            connector: connector.into(),
            topic: topic.into(),
            partitions: partitions.unwrap_or(BROKER_DEFAULT),
            replication: replication.unwrap_or(BROKER_DEFAULT as i16),
            open: Mutex::new(None),
        }
    }

    /// Makes the topic when it is missing, so that a start fails rather than the first dead letter.
    ///
    /// # Errors
    /// As for [`write`](DeadLetterTopic::write).
    pub async fn ensure(&self) -> Result<(), DeadLetterError> {
        let mut open = self.open.lock().await;
        if open.is_none() {
            *open = Some(self.open().await?);
        }
        Ok(())
    }

    async fn open(&self) -> Result<Open, DeadLetterError> {
        let numbers = match self.find().await? {
            Some(numbers) => numbers,
            None => {
                self.create().await?;
                // The broker that answers may not have heard of it yet; the caller tries again.
                self.find().await?.ok_or_else(|| {
                    DeadLetterError::Transient(format!("dead-letter topic {} is being created", self.topic))
                })?
            }
        };
        Ok(Open { numbers, producers: BTreeMap::new() })
    }

    async fn find(&self) -> Result<Option<Vec<i32>>, DeadLetterError> {
        let client = self.connection.client().await.map_err(refused_or_transient)?;
        let topics = self.connection.bounded(REQUEST_TIMEOUT, client.list_topics()).await;
        let topics = topics.map_err(|failure| self.explain("list topics", &failure))?;
        let found = topics.into_iter().find(|topic| topic.name == self.topic && !topic.partitions.is_empty());
        Ok(found.map(|topic| topic.partitions.into_iter().collect()))
    }

    async fn create(&self) -> Result<(), DeadLetterError> {
        let client = self.connection.client().await.map_err(refused_or_transient)?;
        let controller = client.controller_client().map_err(|error| self.explain("create", &Failure::Error(error)))?;
        let create = controller.create_topic(&self.topic, self.partitions, self.replication, 10_000);
        match self.connection.bounded(REQUEST_TIMEOUT, create).await {
            Ok(()) => {
                info!(topic = %self.topic, "dead-letter topic created");
                Ok(())
            }
            Err(failure) if failure.protocol_error() == Some(ProtocolError::TopicAlreadyExists) => Ok(()),
            Err(failure) => Err(self.explain("create", &failure)),
        }
    }

    /// Writes in order; several letters that are too much together are sent one by one.
    async fn produce(&self, producer: &PartitionClient, letters: &[&DeadLetter]) -> Result<(), DeadLetterError> {
        let mut rest = letters;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(chunk_length(rest));
            match self.send(producer, chunk).await {
                Err(failure) if is_too_large(&failure) && chunk.len() > 1 => {
                    for letter in chunk {
                        let sent = self.send(producer, std::slice::from_ref(letter)).await;
                        sent.map_err(|failure| self.explain_letter(letter, &failure))?;
                    }
                }
                sent => sent.map_err(|failure| self.explain_letter(chunk[0], &failure))?,
            }
            rest = behind;
        }
        Ok(())
    }

    async fn send(&self, producer: &PartitionClient, letters: &[&DeadLetter]) -> Result<(), Failure> {
        let records = letters.iter().map(|letter| self.produced(letter)).collect();
        // rskafka always waits for all in-sync replicas.
        let produce = producer.produce(records, Compression::NoCompression);
        self.connection.bounded(REQUEST_TIMEOUT, produce).await.map(drop)
    }

    fn produced(&self, letter: &DeadLetter) -> ProducedRecord {
        let record = &letter.record;
        let mut headers: BTreeMap<String, Vec<u8>> = record
            .headers
            .iter()
            .map(|header| {
                let value = header.value.as_ref().map(|value| value.to_vec()).unwrap_or_default();
                (String::from_utf8_lossy(&header.key).into_owned(), value)
            })
            .collect();
        for (name, value) in [
            ("topic", record.topic.to_string()),
            ("partition", record.partition.to_string()),
            ("offset", record.offset.to_string()),
            ("connector.name", self.connector.clone()),
            ("exception.message", letter.rejection.to_string()),
        ] {
            headers.insert(format!("__connect.errors.{name}"), value.into_bytes());
        }
        ProducedRecord {
            key: record.key.as_ref().map(|key| key.to_vec()),
            value: record.value.as_ref().map(|value| value.to_vec()),
            headers,
            timestamp: DateTime::from_timestamp_millis(record.timestamp).unwrap_or_else(Utc::now),
        }
    }

    fn explain_letter(&self, letter: &DeadLetter, failure: &Failure) -> DeadLetterError {
        if is_too_large(failure) {
            return DeadLetterError::Refused(format!(
                "{:?} does not fit into the dead-letter topic {}: raise its max.message.bytes, or set CONNECT_DEAD_LETTERS=drop",
                letter.record, self.topic
            ));
        }
        self.explain("write", failure)
    }

    fn explain(&self, what: &str, failure: &Failure) -> DeadLetterError {
        let topic = &self.topic;
        if let Some(error) = failure.protocol_error() {
            let advice = match error {
                ProtocolError::TopicAuthorizationFailed | ProtocolError::ClusterAuthorizationFailed => {
                    "grant Create and Write on it to this client"
                }
                ProtocolError::InvalidTopicException => "choose a valid name in CONNECT_DEAD_LETTERS",
                ProtocolError::PolicyViolation | ProtocolError::InvalidPartitions => {
                    "create it by hand or change the settings it is created with"
                }
                ProtocolError::InvalidTimestamp | ProtocolError::InvalidRecord => {
                    "the topic's settings do not take this record: change them"
                }
                ProtocolError::InvalidRequiredAcks | ProtocolError::UnsupportedVersion => {
                    "the broker does not take our requests"
                }
                _ => return DeadLetterError::Transient(format!("dead-letter topic {topic}: {what}: {error}")),
            };
            return DeadLetterError::Refused(format!("dead-letter topic {topic}: {what}: {error}: {advice}"));
        }
        // The broker's refusal to create it with so many replicas comes back as an exhausted retry.
        if let Failure::Error(Error::RetryFailed(cause)) = failure {
            let cause = cause.to_string();
            if cause.contains("InvalidReplicationFactor") {
                return DeadLetterError::Transient(format!(
                    "dead-letter topic {topic}: {what}: fewer brokers are up than the replication asked for: {cause}"
                ));
            }
        }
        refused_or_transient(self.connection.explain(&format!("dead-letter topic {topic}: {what}"), failure))
    }
}

impl DeadLetterTopic for KafkaDeadLetterTopic {
    fn write<'a>(&'a self, letters: &'a [DeadLetter]) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        Box::pin(async move {
            // One writer at a time: dead letters are rare, and their order is kept.
            let mut guard = self.open.lock().await;
            let mut open = match guard.take() {
                Some(open) => open,
                None => self.open().await?,
            };
            let mut by_partition: BTreeMap<i32, Vec<&DeadLetter>> = BTreeMap::new();
            for letter in letters {
                // What came from one partition stays together and in order.
                let number = open.numbers[letter.record.partition.unsigned_abs() as usize % open.numbers.len()];
                by_partition.entry(number).or_default().push(letter);
            }
            for (number, letters) in by_partition {
                if let std::collections::btree_map::Entry::Vacant(entry) = open.producers.entry(number) {
                    let client = self.connection.client().await.map_err(refused_or_transient)?;
                    let made = client.partition_client(&self.topic, number, UnknownTopicHandling::Error);
                    let made = self.connection.bounded(REQUEST_TIMEOUT, made).await;
                    entry.insert(made.map_err(|failure| self.explain("find its leader", &failure))?);
                }
                // After an error the topic is opened anew: it may have been deleted, or its leader be another.
                self.produce(&open.producers[&number], &letters).await?;
            }
            *guard = Some(open);
            Ok(())
        })
    }
}

fn refused_or_transient(error: KafkaError) -> DeadLetterError {
    match error {
        KafkaError::Transient { message, .. } => DeadLetterError::Transient(message),
        KafkaError::Fatal(message) => DeadLetterError::Refused(message),
    }
}

fn is_too_large(failure: &Failure) -> bool {
    matches!(failure.protocol_error(), Some(ProtocolError::MessageTooLarge | ProtocolError::RecordListTooLarge))
}

/// How many letters fit one request: at least one.
fn chunk_length(letters: &[&DeadLetter]) -> usize {
    let mut bytes = 0;
    let fitting = letters.iter().take_while(|letter| {
        bytes += letter.record.bytes() + letter.rejection.to_string().len() + 256;
        bytes <= REQUEST_BYTES
    });
    fitting.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::sink::Rejection;

    fn letter(bytes: usize) -> DeadLetter {
        let record = Record {
            topic: "t".into(),
            partition: 0,
            offset: 7,
            timestamp: 0,
            key: None,
            value: Some(vec![0; bytes].into()),
            headers: vec![],
        };
        DeadLetter { record, rejection: Rejection::new("no key") }
    }

    #[test]
    fn letters_are_sent_in_requests_that_brokers_take() {
        let (small, large) = (letter(200 << 10), letter(2 << 20));
        assert_eq!(chunk_length(&[&small, &small, &small, &small]), 2);
        assert_eq!(chunk_length(&[&large, &small]), 1);
        assert_eq!(chunk_length(&[&small, &large]), 1);
    }
}
