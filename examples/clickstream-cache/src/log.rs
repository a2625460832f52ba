//! The topic itself, read from its begin: how a session is found where there is no cache.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use serde_json::Value;
use tokio::time::timeout;

const FETCH_BYTES: i32 = 4 * 1024 * 1024;
/// For a whole partition: somebody waits for the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A topic.
pub struct Log {
    brokers: String,
    topic: String,
}

impl Log {
    /// The topic at these brokers.
    pub fn new(brokers: &str, topic: &str) -> Self {
        Self { brokers: brokers.to_owned(), topic: topic.to_owned() }
    }

    /// The last event of a user in a partition.
    ///
    /// # Errors
    /// Kafka does not answer in time, or has no such partition.
    pub async fn last(&self, partition: i32, user: &str) -> Result<Option<Value>> {
        timeout(ANSWER_WITHIN, self.scan(partition, user)).await.context("Kafka takes too long")?
    }

    async fn scan(&self, partition: i32, user: &str) -> Result<Option<Value>> {
        let client: Client = ClientBuilder::new(vec![self.brokers.clone()]).build().await?;
        let partition: Arc<PartitionClient> =
            client.partition_client(&self.topic, partition, UnknownTopicHandling::Error).await?.into();
        let mut offset = partition.get_offset(OffsetAt::Earliest).await?;
        let end = partition.get_offset(OffsetAt::Latest).await?;
        let mut last = None;
        while offset < end {
            let (records, _) = partition.fetch_records(offset, 1..FETCH_BYTES, 500).await?;
            for record in records {
                offset = record.offset + 1;
                if record.record.key.as_deref() == Some(user.as_bytes()) {
                    last = record.record.value;
                }
            }
        }
        last.map(|event| serde_json::from_slice(&event).context("the event is no JSON")).transpose()
    }
}
