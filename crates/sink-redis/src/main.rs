//! `sink-redis`: Kafka topics into Redis.

use std::process::ExitCode;

fn main() -> ExitCode {
    connect_core::main::<sink_redis::RedisConnector>()
}
