//! The set-up of the demo: servers, topic, connector.

use std::future::Future;

use anyhow::{Context, Result};
use chrono::Utc;
use tempfile::TempDir;

use crate::{
    connector::{self, Connector},
    events::Events,
    kafka_client::{self, Producer},
    paths,
    services::{Kafka, KafkaOptions},
};

const TOPIC: &str = "clickstream";
const PARTITIONS: i32 = 4;

/// What the events of the demo are written to: the last event of each user.
pub trait Store: Sized {
    /// As it is called in messages.
    const NAME: &'static str;
    /// The package of its connector.
    const CONNECTOR: &'static str;

    /// Starts an empty one; dropped, it is gone.
    fn start() -> impl Future<Output = Result<Self>>;

    /// Where it is.
    fn url(&self) -> String;

    /// What its connector is told beside name, brokers and topic.
    fn environment(&self) -> Vec<(&'static str, String)>;

    /// The key under which a user's event is kept.
    fn key(user: u64) -> String {
        Events::key(user)
    }

    /// What it holds under these keys, in their order.
    fn values(&self, keys: &[String]) -> impl Future<Output = Result<Vec<Option<String>>>>;

    /// How many events it holds.
    fn count(&self) -> impl Future<Output = Result<usize>>;

    /// Whether a value that it holds is the event.
    fn same(value: &str, event: &str) -> bool {
        value == event
    }
}

/// Everything that the demo needs, running. Dropped, it is all gone: the connector first, the servers after it.
pub(super) struct Stage<S> {
    pub(super) connector: Connector,
    pub(super) producer: Producer,
    pub(super) events: Events,
    pub(super) title: String,
    pub(super) store: S,
    _kafka: Kafka,
    _directory: TempDir,
}

impl<S: Store> Stage<S> {
    pub(super) async fn set_up(users: u64) -> Result<Self> {
        let package = S::CONNECTOR;
        println!("building {package}");
        let binary = connector::build(package, "release")?;
        println!("starting Kafka");
        let kafka = Kafka::start(KafkaOptions::default()).await?;
        println!("starting {}", S::NAME);
        let store = S::start().await?;
        let client = kafka_client::connect(&kafka.bootstrap()).await?;
        kafka_client::create_topic(&client, TOPIC, PARTITIONS).await?;
        println!("starting {package}");
        let directory = tempfile::Builder::new()
            .prefix("demo-")
            .tempdir_in(paths::services().join("run"))
            .context("can't make a directory for the connector's log")?;
        let (bootstrap, target) = (kafka.bootstrap(), store.environment());
        let mut environment =
            vec![("CONNECT_NAME", "demo"), ("CONNECT_KAFKA_BROKERS", &bootstrap), ("CONNECT_KAFKA_TOPICS", TOPIC)];
        environment.extend(target.iter().map(|(variable, value)| (*variable, value.as_str())));
        let log = directory.path().join(format!("{package}.log"));
        Ok(Self {
            connector: Connector::start(&binary, &environment, &log)?,
            producer: Producer::new(&client, TOPIC, PARTITIONS).await?,
            events: Events::new(1, users, Utc::now()),
            title: format!("Kafka {bootstrap} ({TOPIC}, {PARTITIONS} partitions) → {package} → {}", store.url()),
            store,
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
