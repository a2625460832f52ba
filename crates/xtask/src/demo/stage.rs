//! The set-up of the demo: servers, topic, connector.

use anyhow::{Context, Result};
use chrono::Utc;
use tempfile::TempDir;

use crate::{
    connector::{self, Connector},
    events::Events,
    kafka_client::{self, Producer},
    paths, redis_client,
    services::{Kafka, KafkaOptions, Redis, RedisOptions},
};

const TOPIC: &str = "clickstream";
pub(super) const PARTITIONS: i32 = 4;
/// What the keys in Redis begin with.
pub(super) const PREFIX: &str = "session:";

/// Everything that the demo needs, running. Dropped, it is all gone: the connector first, the servers after it.
pub(super) struct Stage {
    pub(super) connector: Connector,
    pub(super) sessions: fred::clients::Client,
    pub(super) producer: Producer,
    pub(super) events: Events,
    pub(super) title: String,
    _redis: Redis,
    _kafka: Kafka,
    _directory: TempDir,
}

impl Stage {
    pub(super) async fn set_up(users: u64) -> Result<Self> {
        println!("building sink-redis");
        let binary = connector::build("sink-redis", "release")?;
        println!("starting Kafka");
        let kafka = Kafka::start(KafkaOptions::default()).await?;
        println!("starting Redis");
        let redis = Redis::start(RedisOptions::default()).await?;
        let client = kafka_client::connect(&kafka.bootstrap()).await?;
        kafka_client::create_topic(&client, TOPIC, PARTITIONS).await?;
        println!("starting sink-redis");
        let directory = tempfile::Builder::new()
            .prefix("demo-")
            .tempdir_in(paths::services().join("run"))
            .context("can't make a directory for the connector's log")?;
        let connector = Connector::start(
            &binary,
            &[
                ("CONNECT_NAME", "demo"),
                ("CONNECT_KAFKA_BROKERS", &kafka.bootstrap()),
                ("CONNECT_KAFKA_TOPICS", TOPIC),
                ("CONNECT_REDIS_URL", &redis.url()),
                ("CONNECT_REDIS_KEY", &format!("{PREFIX}{{key}}")),
            ],
            &directory.path().join("sink-redis.log"),
        )?;
        Ok(Self {
            connector,
            sessions: redis_client::connect(&redis.url()).await?,
            producer: Producer::new(&client, TOPIC, PARTITIONS).await?,
            events: Events::new(1, users, Utc::now()),
            title: format!(
                "Kafka {} ({TOPIC}, {PARTITIONS} partitions) → sink-redis → {}",
                kafka.bootstrap(),
                redis.url()
            ),
            _redis: redis,
            _kafka: kafka,
            _directory: directory,
        })
    }

    /// Produces one event of the stream.
    pub(super) async fn produce(&mut self, number: u64) -> Result<()> {
        let partition = self.events.user(number) as usize;
        self.producer.send(partition, self.events.record(number)).await
    }
}

/// The key in Redis of a user's session.
pub(super) fn redis_key(user: u64) -> String {
    format!("{PREFIX}{}", Events::key(user))
}
