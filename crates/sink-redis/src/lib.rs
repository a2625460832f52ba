//! Kafka topics into Redis: data and offset change in one atomic step, so that every record counts exactly once.

mod check;
pub mod config;
pub mod connection;
pub mod errors;
pub mod op;
pub mod position;
pub mod script;
pub mod sink;

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
