//! Everything that speaks to Kafka.

pub mod batch;
pub mod connection;
pub mod dead_letter_topic;
mod error;
mod fetch;
pub mod kafka_source;
mod poller;
pub mod reader;
pub mod rskafka_source;
pub mod static_assignment;
mod tls;
pub mod wire;

pub use connection::Connection;
pub use dead_letter_topic::KafkaDeadLetterTopic;
pub use error::KafkaError;
pub use kafka_source::KafkaSource;
pub use reader::Reader;
pub use rskafka_source::RskafkaSource;
pub use static_assignment::StaticAssignment;
