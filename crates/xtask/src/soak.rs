//! `cargo xtask soak`: all connectors together, at a steady rate, for minutes or hours.
//!
//! Updates and deletes of a bounded set of keys flow into every store; the servers, Kafka too, are frozen in turn for longer
//! than a write may take. What a process holds must not grow with what passes through it, and in the end every store
//! holds what the topic says.

mod store;
mod traffic;
mod usage;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use connect_testkit::scrape::Metrics;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{interval, sleep};

use self::{traffic::Traffic, usage::Usage};
use crate::{
    connector::{self, Connector},
    kafka_client::{self, Producer},
    paths,
    services::{Kafka, KafkaOptions, Store},
};

const TOPIC: &str = "soak";
const PARTITIONS: i32 = 4;
/// How often a process is looked at.
const SAMPLED_EVERY: Duration = Duration::from_secs(2);
/// How often a server is frozen, in turn, and for how long.
const FROZEN_EVERY: Duration = Duration::from_secs(15);
const FROZEN_FOR: Duration = Duration::from_secs(6);
/// Shorter than a server is frozen, so that writes time out and are sent again.
const WRITE_TIMEOUT: &str = "4s";
/// Without progress for this long a connector is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);
/// Lines about what goes on.
const SHOWN: u32 = 12;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long records are produced.
    pub length: Duration,
    /// Records a second.
    pub rate: u32,
    /// Where the connectors' binaries are; if not given, those that the tests run, which are there after
    /// `cargo test --workspace`.
    pub binaries: Option<PathBuf>,
}

/// A connector, its store, and what the process was seen to hold.
struct Subject {
    store: Store,
    connector: Connector,
    usage: Usage,
}

/// Runs all connectors together and reports what their processes hold.
///
/// # Errors
/// A connector ended, is stuck, grew, lost count of its records, or left a store that is not what the topic says.
pub async fn run(options: &Options) -> Result<()> {
    println!("starting Kafka, Redis, Elasticsearch and Couchbase");
    // Hours of records need not be kept: what is read is a few seconds old.
    let kept = ["log.retention.bytes=134217728", "log.segment.bytes=33554432", "log.retention.check.interval.ms=30000"];
    let properties = kept.map(str::to_owned).to_vec();
    let mut kafka = Kafka::start(KafkaOptions { properties, ..KafkaOptions::default() }).await?;
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    kafka_client::create_topic(&client, TOPIC, PARTITIONS).await?;
    let logs = tempfile::Builder::new().prefix("soak-").tempdir_in(paths::services().join("run"))?;
    let mut subjects = Vec::new();
    for store in Store::all().await? {
        subjects.push(Subject::start(store, &kafka, &logs, options.binaries.as_deref())?);
    }
    let traffic = Traffic::new(Producer::new(&client, TOPIC, PARTITIONS).await?, PARTITIONS);
    println!("{} records/s for {:?}, in {PARTITIONS} partitions", options.rate, options.length);
    let producing = tokio::spawn(traffic.flow(options.rate, options.length));
    watch(options.length, &mut kafka, &mut subjects).await?;
    let traffic = producing.await??;
    let mut grown = Vec::new();
    usage::print_heading();
    for subject in &mut subjects {
        subject.settle(traffic.produced()).await.with_context(|| subject.store.package())?;
        subject.compare(traffic.contents()).await.with_context(|| subject.store.package())?;
        subject.sample(options.length)?;
        subject.usage.print(subject.store.package());
        grown.extend(subject.usage.grown().map(|what| format!("{} {what}", subject.store.package())));
    }
    for subject in &mut subjects {
        subject.connector.drain().await.with_context(|| subject.store.package())?;
    }
    if !grown.is_empty() {
        bail!("{}", grown.join("; "));
    }
    println!("{} records; every store holds what the topic says", traffic.produced().iter().sum::<u64>());
    Ok(())
}

/// Freezes the servers in turn and looks at the processes until the time is over.
async fn watch(length: Duration, kafka: &mut Kafka, subjects: &mut [Subject]) -> Result<()> {
    let begun = Instant::now();
    let mut tick = interval(SAMPLED_EVERY);
    let (mut frozen, mut frozen_at, mut turn) = (None, begun, 0);
    let mut shown = 1;
    while begun.elapsed() < length {
        tick.tick().await;
        for subject in subjects.iter_mut() {
            subject.sample(begun.elapsed())?;
        }
        match frozen {
            Some(victim) if frozen_at.elapsed() >= FROZEN_FOR => {
                freeze(kafka, subjects, victim, false)?;
                frozen = None;
            }
            None if frozen_at.elapsed() >= FROZEN_EVERY => {
                freeze(kafka, subjects, turn, true)?;
                (frozen, frozen_at) = (Some(turn), Instant::now());
                turn = (turn + 1) % (subjects.len() + 1);
            }
            _ => {}
        }
        if begun.elapsed() >= length / SHOWN * shown {
            shown += 1;
            show(begun.elapsed(), subjects).await?;
        }
    }
    match frozen {
        Some(victim) => freeze(kafka, subjects, victim, false),
        None => Ok(()),
    }
}

/// Freezes a server or lets it go on: a store, or Kafka behind the last of them.
fn freeze(kafka: &mut Kafka, subjects: &mut [Subject], victim: usize, freeze: bool) -> Result<()> {
    match subjects.get_mut(victim) {
        Some(subject) => subject.store.freeze(freeze),
        None if freeze => kafka.pause(),
        None => kafka.resume(),
    }
}

async fn show(elapsed: Duration, subjects: &mut [Subject]) -> Result<()> {
    print!("{:>7.0} s", elapsed.as_secs_f64());
    for subject in subjects {
        let metrics = subject.connector.metrics().await?.unwrap_or_default();
        print!("   {} {} {}", subject.store.package(), metrics.read(), subject.usage.now());
    }
    println!();
    Ok(())
}

impl Subject {
    fn start(store: Store, kafka: &Kafka, logs: &TempDir, binaries: Option<&Path>) -> Result<Self> {
        let package = store.package();
        let binary = match binaries {
            Some(directory) => directory.join(package),
            None => connector::tested(package)?,
        };
        let mut environment = store.environment();
        environment.extend([
            ("CONNECT_NAME", package.to_owned()),
            ("CONNECT_KAFKA_BROKERS", kafka.bootstrap()),
            ("CONNECT_KAFKA_TOPICS", TOPIC.to_owned()),
            ("CONNECT_WRITE_TIMEOUT", WRITE_TIMEOUT.to_owned()),
        ]);
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let connector = Connector::start(&binary, &environment, &logs.path().join(format!("{package}.log")))?;
        Ok(Self { store, connector, usage: Usage::default() })
    }

    fn sample(&mut self, elapsed: Duration) -> Result<()> {
        if let Some(status) = self.connector.process().exited()? {
            bail!("{} ended ({status}); {}", self.store.package(), self.connector.process().log_tail());
        }
        self.usage.sample(self.connector.process().pid(), elapsed)
    }

    /// Waits until everything is committed, and checks that each partition's account adds up.
    async fn settle(&mut self, produced: &[u64]) -> Result<()> {
        let (mut last, mut progress) = (Vec::new(), Instant::now());
        loop {
            let metrics = self.connector.metrics().await?.unwrap_or_default();
            let committed = committed(&metrics, produced.len());
            if committed == produced {
                metrics.adds_up().map_err(|message| anyhow!(message))?;
                self.usage.outcomes = outcomes(&metrics);
                return Ok(());
            }
            if committed != last {
                (last, progress) = (committed, Instant::now());
            }
            if progress.elapsed() > STUCK_AFTER {
                let tail = self.connector.process().log_tail();
                bail!("of {produced:?} records only {last:?} were committed; {tail}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn compare(&self, expected: &BTreeMap<String, Value>) -> Result<()> {
        let found = self.store.contents().await?;
        let differ = expected.iter().find(|(key, value)| found.get(*key) != Some(value));
        if let Some((key, value)) = differ {
            bail!("{key} is {:?} and should be {value}", found.get(key));
        }
        if let Some(key) = found.keys().find(|key| !expected.contains_key(*key)) {
            bail!("{key} should have been deleted");
        }
        Ok(())
    }
}

/// The offset that each partition has committed.
fn committed(metrics: &Metrics, partitions: usize) -> Vec<u64> {
    let offset = |number: usize| metrics.sum("connect_committed_offset", &[("partition", &number.to_string())]) as u64;
    (0..partitions).map(offset).collect()
}

/// What became of the records, for the report.
fn outcomes(metrics: &Metrics) -> String {
    let count = |outcome: &str| metrics.sum("connect_records_total", &[("outcome", outcome)]);
    let (written, superseded, returned) = (count("written"), count("superseded"), count("returned"));
    let retries = metrics.sum("connect_retries_total", &[]);
    format!(
        "read {}, written {written}, superseded {superseded}, returned {returned}; {retries} retries",
        metrics.read()
    )
}
