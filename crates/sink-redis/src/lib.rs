//! Kafka topics into Redis: data and offset change in one atomic step, so that every record counts exactly once.

mod check;
mod cluster;
pub mod config;
mod connection;
mod errors;
mod exact;
pub mod expiry;
mod fields;
mod fingerprint;
pub mod mapping;
pub mod op;
mod plain;
mod position;
mod script;
mod sink;
mod store;
mod tls;
mod transaction;
pub mod words;

use connect_core::{Connector, Context};

pub use config::RedisConfig;
pub use sink::RedisSink;

/// The connector.
pub struct RedisConnector;

impl Connector for RedisConnector {
    type Config = RedisConfig;
    type Sink = RedisSink;
    const NAME: &'static str = "sink-redis";

    async fn sink(config: RedisConfig, context: Context) -> Result<RedisSink, String> {
        RedisSink::new(config, &context.name, &context.topics)
    }
}
