//! The demo with Couchbase in place of Redis: the in-memory test server of this project, and a document for each user.

use std::{
    collections::BTreeMap,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{interval, sleep};

use crate::{
    connector::{self, Connector},
    events::Events,
    interrupt::interrupted,
    kafka_client::{self, Producer},
    metrics::Metrics,
    paths,
    services::{Couchbase, CouchbaseOptions, Kafka, KafkaOptions},
};

const TOPIC: &str = "clickstream";
const PARTITIONS: i32 = 4;
const EVENTS: u64 = 100_000;
const USERS: u64 = 10_000;
/// How often events are produced.
const TICK: Duration = Duration::from_millis(50);
/// How often figures are shown.
const SHOWN_EVERY: Duration = Duration::from_secs(2);
/// Without progress for this long the connector is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Everything that the demo needs, running. Dropped, it is all gone: the connector first, the servers after it.
struct Stage {
    connector: Connector,
    producer: Producer,
    events: Events,
    couchbase: Couchbase,
    _kafka: Kafka,
    _directory: TempDir,
}

impl Stage {
    async fn set_up(users: u64) -> Result<Self> {
        println!("building sink-couchbase");
        let binary = connector::build("sink-couchbase", "release")?;
        println!("starting Kafka");
        let kafka = Kafka::start(KafkaOptions::default()).await?;
        println!(
            "starting Couchbase: the in-memory test server of this project, for there is no package of the real one"
        );
        let couchbase =
            Couchbase::start(CouchbaseOptions { profile: Some("release"), ..CouchbaseOptions::default() }).await?;
        let client = kafka_client::connect(&kafka.bootstrap()).await?;
        kafka_client::create_topic(&client, TOPIC, PARTITIONS).await?;
        println!("starting sink-couchbase");
        let directory = tempfile::Builder::new()
            .prefix("demo-")
            .tempdir_in(paths::services().join("run"))
            .context("can't make a directory for the connector's log")?;
        let bootstrap = kafka.bootstrap();
        let target = couchbase.environment();
        let mut environment = vec![
            ("CONNECT_NAME", "demo"),
            ("CONNECT_KAFKA_BROKERS", bootstrap.as_str()),
            ("CONNECT_KAFKA_TOPICS", TOPIC),
        ];
        environment.extend(target.iter().map(|(variable, value)| (*variable, value.as_str())));
        let connector = Connector::start(&binary, &environment, &directory.path().join("sink-couchbase.log"))?;
        println!("\nKafka {bootstrap} ({TOPIC}, {PARTITIONS} partitions) → sink-couchbase → {}\n", couchbase.url());
        Ok(Self {
            connector,
            producer: Producer::new(&client, TOPIC, PARTITIONS).await?,
            events: Events::new(1, users, Utc::now()),
            couchbase,
            _kafka: kafka,
            _directory: directory,
        })
    }

    async fn produce(&mut self, number: u64) -> Result<()> {
        let partition = self.events.user(number) as usize;
        self.producer.send(partition, self.events.record(number)).await
    }
}

/// Produces 100,000 events, waits until they are in Couchbase and compares every document.
///
/// # Errors
/// The set-up failed, the connector ended or is stuck, or Couchbase holds something else.
pub async fn once() -> Result<()> {
    let mut stage = Stage::set_up(USERS).await?;
    let begun = Instant::now();
    for number in 0..EVENTS {
        stage.produce(number).await?;
    }
    stage.producer.flush().await?;
    println!("produced {EVENTS} events, waiting until they are in Couchbase");
    let metrics = wait_until_written(&mut stage).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let found = stage.couchbase.documents().await?;
    let last = stage.events.last_of_each_user(EVENTS);
    let expected: BTreeMap<String, Value> = (0..)
        .zip(last)
        .filter_map(|(user, number)| {
            Some((Events::key(user), serde_json::from_str(&stage.events.value(number?)).ok()?))
        })
        .collect();
    stage.connector.drain().await?;
    println!("events produced    {EVENTS:>9}");
    println!("records written    {:>9}", metrics.written());
    println!("documents compared {:>9}", expected.len());
    println!("seconds            {seconds:>9.2}");
    println!("records/s          {:>9.0}", EVENTS as f64 / seconds);
    let differ = expected.iter().filter(|(id, value)| found.get(*id) != Some(value)).count();
    if differ > 0 || found.len() != expected.len() {
        bail!("{differ} documents differ; {} are there, {} should be", found.len(), expected.len());
    }
    if metrics.read() != EVENTS || metrics.written() != EVENTS {
        bail!("the connector's counts don't add up to the {EVENTS} events that were produced");
    }
    println!("Couchbase holds exactly what was produced");
    Ok(())
}

async fn wait_until_written(stage: &mut Stage) -> Result<Metrics> {
    let (mut written, mut progress) = (0, Instant::now());
    loop {
        let metrics = stage.connector.metrics().await?.unwrap_or_default();
        if metrics.written() >= EVENTS {
            return Ok(metrics);
        }
        if metrics.written() > written {
            (written, progress) = (metrics.written(), Instant::now());
        }
        if progress.elapsed() > STUCK_AFTER {
            let tail = stage.connector.process().log_tail();
            bail!("only {written} of {EVENTS} events were written and nothing more for {STUCK_AFTER:?}; {tail}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Produces `rate` events a second and shows what becomes of them until interrupted.
///
/// # Errors
/// The set-up failed, or the connector ended by itself.
pub async fn live(rate: u32) -> Result<()> {
    let mut interrupt = pin!(interrupted());
    let mut stage = tokio::select! {
        stage = Stage::set_up(1_000) => stage?,
        _ = &mut interrupt => return Ok(()),
    };
    tokio::select! {
        result = stream(&mut stage, rate) => return result,
        _ = &mut interrupt => {}
    }
    println!("\nstopping: sink-couchbase finishes what it has in hand");
    stage.connector.drain().await?;
    println!("sink-couchbase ended with exit code 0; Couchbase and Kafka are stopped");
    Ok(())
}

async fn stream(stage: &mut Stage, rate: u32) -> Result<()> {
    let begun = Instant::now();
    let mut produced = 0;
    let mut shown = (begun, 0);
    let mut tick = interval(TICK);
    loop {
        tick.tick().await;
        // By the clock and not by the tick, so that a busy machine catches up.
        let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while produced < due {
            stage.produce(produced).await?;
            produced += 1;
        }
        stage.producer.flush().await?;
        if shown.0.elapsed() < SHOWN_EVERY {
            continue;
        }
        let metrics = stage.connector.metrics().await?.unwrap_or_default();
        let (read, written, lag) = (metrics.read(), metrics.written(), metrics.lag());
        let per_second = written.saturating_sub(shown.1) as f64 / shown.0.elapsed().as_secs_f64();
        shown = (Instant::now(), written);
        println!("produced {produced}  read {read}  written {written}  lag {lag}  {per_second:.0} records/s");
        let key = Events::key(stage.events.user(produced.saturating_sub(1)));
        if let Some(document) = stage.couchbase.documents().await?.get(&key) {
            println!("  {key} = {document}");
        }
    }
}
