//! Everything that speaks to Kafka.

pub mod config;
pub mod connection;
pub mod dead_letter_topic;
mod error;
pub mod rskafka_source;
pub mod static_assignment;
mod tls;

pub use config::{KafkaConfig, SaslMechanism, Security};
pub use connection::Connection;
pub use dead_letter_topic::{KafkaDeadLetterTopic, subscription_matches};
pub use error::KafkaError;
pub use rskafka_source::RskafkaSource;
pub use static_assignment::StaticAssignment;
