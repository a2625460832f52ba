//! Our own connections to the brokers, for what rskafka lacks.

pub mod cluster;
pub mod connection;
mod sasl;
mod transport;

pub use cluster::{Cluster, Leader, Purpose, TopicMetadata};
pub use connection::{BrokerConnection, Room};
