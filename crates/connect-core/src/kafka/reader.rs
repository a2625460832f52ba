//! The choice between the two readers.

use std::sync::Arc;

use super::connection::Connection;
use super::kafka_source::KafkaSource;
use super::rskafka_source::RskafkaSource;
use super::wire::Cluster;
use crate::budget::Budget;
use crate::config::ReaderChoice;
use crate::record::TopicPartition;
use crate::source::{Fetched, Position, Source, SourceError};

/// The reader that `CONNECT_KAFKA_READER` names.
pub enum Reader {
    /// Reads everything that Kafka stores.
    Kafka(KafkaSource),
    /// For plain topics.
    Rskafka(RskafkaSource),
}

impl Reader {
    /// Makes the reader that the settings name.
    pub fn new(cluster: Arc<Cluster>, connection: Arc<Connection>, budget: Arc<Budget>) -> Self {
        match cluster.config().reader {
            ReaderChoice::Kafka => Self::Kafka(KafkaSource::new(cluster, budget)),
            ReaderChoice::Rskafka => Self::Rskafka(RskafkaSource::new(connection, budget)),
        }
    }
}

impl Source for Reader {
    async fn fetch(&self, partition: &TopicPartition, offset: i64) -> Result<Fetched, SourceError> {
        match self {
            Self::Kafka(source) => source.fetch(partition, offset).await,
            Self::Rskafka(source) => source.fetch(partition, offset).await,
        }
    }

    async fn offset(&self, partition: &TopicPartition, position: Position) -> Result<i64, SourceError> {
        match self {
            Self::Kafka(source) => source.offset(partition, position).await,
            Self::Rskafka(source) => source.offset(partition, position).await,
        }
    }
}
