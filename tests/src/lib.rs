//! What the system tests share: a scene with a topic, a Redis of its own and a connector, and waiting for a state.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::Utc;
use connect_testkit::scrape::Metrics;
use rskafka::record::Record;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use xtask::connector::Connector;
use xtask::kafka_client::{Producer, connect, create_topic};
pub use xtask::seed::seed;
use xtask::services::{Redis, RedisOptions, shared};

/// Long enough for a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A topic, a Redis and the environment of a connector between them.
pub struct Scene {
    /// Address of the broker.
    pub kafka: String,
    /// A topic of this test's own.
    pub topic: String,
    /// A Redis of this test's own.
    pub redis: Redis,
    binary: PathBuf,
    environment: BTreeMap<String, String>,
    partitions: i32,
    directory: TempDir,
}

impl Scene {
    /// A new topic on the shared broker, a new Redis, and `binary` to run between them.
    ///
    /// # Errors
    /// A server does not start or answer.
    pub async fn new(binary: &str, test: &str, partitions: i32) -> Result<Self> {
        Self::on(binary, shared::kafka()?, test, partitions).await
    }

    /// The same on a broker of the test's own.
    ///
    /// # Errors
    /// A server does not start or answer.
    pub async fn on(binary: &str, kafka: String, test: &str, partitions: i32) -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        Self::with(binary, kafka, redis, test, partitions).await
    }

    /// The same with servers of the test's own.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn with(binary: &str, kafka: String, redis: Redis, test: &str, partitions: i32) -> Result<Self> {
        let directory = TempDir::new()?;
        let topic = format!("{test}-{}", Utc::now().timestamp_micros());
        if partitions > 0 {
            create_topic(&connect(&kafka).await?, &topic, partitions).await?;
        }
        let environment = BTreeMap::from([
            ("CONNECT_NAME".to_owned(), topic.clone()),
            ("CONNECT_KAFKA_BROKERS".to_owned(), kafka.clone()),
            ("CONNECT_KAFKA_TOPICS".to_owned(), topic.clone()),
            // A group misses a member that was killed only when its session ends; what is tested here is not the group.
            ("CONNECT_KAFKA_ASSIGNMENT".to_owned(), "static".to_owned()),
            ("CONNECT_REDIS_URL".to_owned(), redis.url()),
            ("CONNECT_LOG_FORMAT".to_owned(), "pretty".to_owned()),
        ]);
        Ok(Self { kafka, topic, redis, binary: binary.into(), environment, partitions, directory })
    }

    /// Sets a variable of the connector.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts the connector.
    ///
    /// # Errors
    /// It can't be built or run.
    pub fn connector(&self) -> Result<Connector> {
        self.connector_named("connector", &[])
    }

    /// Starts the connector with settings and a log of its own, as one of several.
    ///
    /// # Errors
    /// It can't be built or run.
    pub fn connector_named(&self, name: &str, more: &[(&str, &str)]) -> Result<Connector> {
        let environment = self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let environment: Vec<_> = environment.chain(more.iter().copied()).collect();
        Connector::start(&self.binary, &environment, &self.log_file(name))
    }

    /// Calls a command of the connector's binary, such as `offsets show`, and waits for its end.
    ///
    /// # Errors
    /// It can't be run.
    pub fn call(&self, arguments: &[&str]) -> Result<Called> {
        let mut command = std::process::Command::new(&self.binary);
        let output = command.env_clear().envs(&self.environment).args(arguments).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().context("a signal ended it")?;
        Ok(Called { code, output: text(&output.stdout), errors: text(&output.stderr) })
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }

    /// What the connector has logged so far, over all its runs.
    pub fn logged(&self) -> String {
        self.log_of("connector")
    }

    /// What a connector with a name has logged so far.
    pub fn log_of(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    /// Keeps the logs of all connectors, and says where: for the message of a test that fails.
    pub fn logs(&self) -> String {
        let kept = std::env::temp_dir().join(&self.topic);
        let copied = std::fs::create_dir_all(&kept).and_then(|()| {
            for log in std::fs::read_dir(self.directory.path())? {
                let log = log?;
                std::fs::copy(log.path(), kept.join(log.file_name()))?;
            }
            Ok(())
        });
        copied.map_or_else(|error| format!("the logs can't be kept: {error}"), |()| format!("logs: {}", kept.display()))
    }

    /// Adds records to the topic, each with its partition.
    ///
    /// # Errors
    /// The broker refuses them.
    pub async fn produce(&self, records: impl IntoIterator<Item = (usize, Record)>) -> Result<()> {
        let client = connect(&self.kafka).await?;
        let mut producer = Producer::new(&client, &self.topic, self.partitions).await?;
        for (partition, record) in records {
            producer.send(partition, record).await?;
        }
        producer.finish().await
    }

    /// A client for looking into Redis.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn store(&self) -> Result<fred::clients::Client> {
        xtask::redis_client::connect(&self.redis.url()).await
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Called {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub output: String,
    /// What it logged.
    pub errors: String,
}

/// A record; `None` for a null key or a tombstone.
pub fn record(key: Option<&[u8]>, value: Option<&[u8]>) -> Record {
    Record {
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers: BTreeMap::new(),
        timestamp: Utc::now(),
    }
}

/// A record for each of these numbers, with a key of its own, spread over the partitions.
pub fn numbered(numbers: std::ops::Range<usize>, partitions: usize) -> Vec<(usize, Record)> {
    let one = |number: usize| {
        let (key, value) = (format!("key-{number}"), format!("value-{number}"));
        (number % partitions, record(Some(key.as_bytes()), Some(value.as_bytes())))
    };
    numbers.map(one).collect()
}

/// Waits until the connector's metrics satisfy a condition.
///
/// # Errors
/// It ended, or the time is up; the message has its metrics as they were.
pub async fn metrics_until(
    connector: &mut Connector,
    what: &str,
    condition: impl Fn(&Metrics) -> bool,
) -> Result<Metrics> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = connector.metrics().await?;
        match metrics {
            Some(metrics) if condition(&metrics) => return Ok(metrics),
            last if Instant::now() >= deadline => bail!("never came: {what}; the last metrics: {last:?}"),
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits until a condition holds.
///
/// # Errors
/// The time is up.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        if Instant::now() >= deadline {
            bail!("never came: {what}");
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Waits until the connector ends by itself; its exit code.
///
/// # Errors
/// It does not end, or a signal ended it.
pub async fn exit_code(connector: &mut Connector) -> Result<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = connector.process().exited()? {
            return status.code().context("a signal ended it");
        }
        if Instant::now() >= deadline {
            bail!("it did not end");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Says something that is worth reading of a test that passed, too, whose output is not shown otherwise.
pub fn report(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Checks that every record read is found again under exactly one outcome, in each partition, with nothing in flight.
pub fn assert_account_adds_up(metrics: &Metrics) {
    assert_eq!(metrics.adds_up(), Ok(()), "{metrics:?}");
}

/// How many records met this outcome.
pub fn outcome(metrics: &Metrics, outcome: &str) -> u64 {
    metrics.sum("connect_records_total", &[("outcome", outcome)]) as u64
}
