//! A Redis server, a sink on it, and records.

use bytes::Bytes;
use connect_core::config::Section;
use connect_core::{Assigned, Batch, Item, Outcome, Record, Resume, Sink, SinkError, TopicPartition, Verdict};
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, ReconnectPolicy};
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use sink_redis::op::Op;
use sink_redis::{RedisConfig, RedisSink};
use xtask::services::{Redis, RedisOptions};

/// The connector's name in these tests.
pub const NAME: &str = "test";
/// Where it keeps its offsets.
pub const OFFSETS: &str = "connect:offsets:test";
/// 2023-11-14.
pub const TIMESTAMP: i64 = 1_700_000_000_000;

/// A server and a client that looks into it.
pub struct Server {
    pub redis: Redis,
    client: Client,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let redis = Redis::start(RedisOptions { arguments, ..RedisOptions::default() }).await.unwrap();
        let client = start_client(&redis.url()).await;
        Self { redis, client }
    }

    /// Sends one command and shows the answer as text.
    pub async fn ask(&self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        show(&self.send(&words).await.unwrap())
    }

    /// Sends one command.
    pub async fn send(&self, words: &[&str]) -> Result<Value, fred::error::Error> {
        let words: Vec<Value> = words.iter().map(|word| Value::from(*word)).collect();
        let name = words[0].as_string().unwrap();
        self.client.custom(CustomCommand::new(name, ClusterHash::FirstKey, false), words[1..].to_vec()).await
    }

    pub async fn get(&self, key: &str) -> Option<Bytes> {
        self.send(&["GET", key]).await.unwrap().into_bytes()
    }

    /// The offset stored for partition 0.
    pub async fn stored(&self) -> String {
        self.ask(&format!("HGET {OFFSETS} events-0")).await
    }

    pub fn sink(&self) -> RedisSink {
        self.sink_with(&[])
    }

    pub fn sink_with(&self, settings: &[(&str, &str)]) -> RedisSink {
        sink(&self.redis.url(), settings)
    }
}

/// A client that connects again by itself.
pub async fn start_client(url: &str) -> Client {
    let config = Config::from_url(url).unwrap();
    let client = Builder::from_config(config)
        .set_policy(ReconnectPolicy::new_constant(0, 20))
        // Messages that a test has not taken yet.
        .with_performance_config(|performance| performance.broadcast_channel_capacity = 1_000)
        .build()
        .unwrap();
    client.init().await.unwrap();
    client
}

/// A sink on a server that may not be there.
pub fn sink(url: &str, settings: &[(&str, &str)]) -> RedisSink {
    let mut pairs = vec![("CONNECT_REDIS_URL", url)];
    pairs.extend_from_slice(settings);
    RedisSink::new(RedisConfig::from_pairs(&pairs).unwrap(), NAME, &["events".to_owned()]).unwrap()
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Array(values) => values.iter().map(show).collect::<Vec<_>>().join(" "),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        value => value.as_string().unwrap_or_else(|| format!("{value:?}")),
    }
}

pub fn record(offset: i64, key: &str, value: impl Into<Bytes>) -> Record {
    Record {
        topic: "events".into(),
        partition: 0,
        offset,
        timestamp: TIMESTAMP,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

pub fn tombstone(offset: i64, key: &str) -> Record {
    Record { value: None, ..record(offset, key, "") }
}

pub fn partition() -> TopicPartition {
    TopicPartition::new("events", 0)
}

/// What a core that has just got the partition tells.
pub fn assigned(committed: Option<i64>) -> Assigned {
    Assigned { committed, ..Assigned::new(partition()) }
}

/// The records from `first` to the last one's successor.
pub fn batch(sink: &RedisSink, expected: Option<i64>, first: i64, records: &[Record]) -> Batch<Op> {
    let items: Vec<Item<Op>> = records
        .iter()
        .filter_map(|record| Some(Item { offset: record.offset, op: sink.prepare(record).unwrap()? }))
        .collect();
    let next = records.last().map_or(first, |record| record.offset + 1);
    Batch { source: partition(), expected, first, next, items }
}

/// Writes what the core would write next after `first`.
pub async fn write(sink: &RedisSink, first: i64, records: &[Record]) -> Outcome {
    sink.write(&batch(sink, Some(first), first, records)).await.unwrap()
}

/// Takes the partition up as a core does that starts at 0.
pub async fn start(sink: &RedisSink) {
    assert_eq!(sink.resume(&assigned(None)).await, Ok(Resume::Empty));
    assert_eq!(sink.write(&batch(sink, None, 0, &[])).await, Ok(Outcome::written()));
}

/// The only exception of an outcome: a rejection.
pub fn rejection(outcome: &Outcome) -> (usize, String) {
    let [(index, Verdict::Rejected(rejection))] = outcome.exceptions() else { panic!("{outcome:?}") };
    (*index, rejection.to_string())
}

pub fn superseded(outcome: &Outcome) -> usize {
    outcome.exceptions().iter().filter(|(_, verdict)| *verdict == Verdict::Superseded).count()
}

pub fn transient(result: Result<impl std::fmt::Debug, SinkError>) -> &'static str {
    match result {
        Err(SinkError::Transient { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

pub fn fatal(result: Result<impl std::fmt::Debug, SinkError>) -> String {
    match result {
        Err(SinkError::Fatal(message)) => message,
        other => panic!("{other:?}"),
    }
}
