//! Everything that speaks to Kafka.

pub mod batch;
pub mod commit_note;
pub mod connection;
pub mod coordinator;
pub mod dead_letter_topic;
mod error;
mod fetch;
mod fetch_session;
pub mod group;
pub mod group_members;
pub mod kafka_source;
pub mod list_offsets;
pub mod membership;
mod poller;
mod positions;
pub mod reader;
pub mod rskafka_source;
pub mod static_assignment;
pub mod subscription;
mod tls;
mod token;
pub mod wire;

pub use commit_note::CommitNote;
pub use connection::Connection;
pub use dead_letter_topic::KafkaDeadLetterTopic;
pub use error::KafkaError;
pub use group::GroupAssignment;
pub use kafka_source::KafkaSource;
pub use membership::Membership;
pub use reader::Reader;
pub use rskafka_source::RskafkaSource;
pub use static_assignment::StaticAssignment;
pub use subscription::Subscription;
