//! Everything that speaks to Kafka.

pub mod connection;
pub mod dead_letter_topic;
mod error;
pub mod rskafka_source;
pub mod static_assignment;
mod tls;

pub use connection::Connection;
pub use dead_letter_topic::KafkaDeadLetterTopic;
pub use error::KafkaError;
pub use rskafka_source::RskafkaSource;
pub use static_assignment::StaticAssignment;
