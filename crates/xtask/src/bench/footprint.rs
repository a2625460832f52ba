//! `cargo xtask bench footprint`: what a connector costs where it runs, and how fast it comes and goes.
//!
//! Measured is the static binary that the image holds.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use chrono::Utc;
use rskafka::record::Record;
use serde::Serialize;
use tokio::time::sleep;

use super::{MEBIBYTE, median, rounded, start};
use crate::{
    connector::{self, Connector},
    events::Events,
    kafka_client::{self, Producer},
    paths, proc, redis_client,
    services::{Kafka, KafkaOptions, Redis, RedisOptions},
};

/// Each with a key of its own, so that the store's keys can be counted against the offsets.
const RECORDS: u64 = 500_000;
const PARTITIONS: i32 = 4;
const STOPS: u64 = 50;
/// An idle connector's memory has settled within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The last line of the output, for programs.
#[derive(Debug, Serialize)]
struct Report {
    sink: &'static str,
    binary_mib: f64,
    idle_rss_mib: f64,
    peak_rss_mib: f64,
    records_per_s: f64,
    first_record_s: f64,
    stop_s_median: f64,
    stop_s_longest: f64,
    stops_under_load: usize,
}

/// One start and stop.
#[derive(Debug)]
struct Stop {
    /// Seconds from exec to the first record in the store.
    first: f64,
    /// Seconds from SIGTERM to the end.
    stop: f64,
    /// Records that are in the store.
    written: u64,
}

/// Measures sink-redis.
///
/// # Errors
/// The set-up failed, a stop didn't end with 0, or the store and its offsets disagree after it.
pub async fn run() -> Result<()> {
    let binary = connector::build_static("sink-redis", &paths::workspace())?;
    let size = binary.metadata()?.len() as f64 / MEBIBYTE;
    println!("starting Kafka and Redis");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let redis = Redis::start(RedisOptions { memory_only: true, ..RedisOptions::default() }).await?;
    produce(&kafka).await?;
    let bench = Bench { binary: &binary, kafka: &kafka, redis: &redis };
    let idle = bench.idle().await?;
    let (peak, rate) = bench.full_load().await?;
    let mut stops = Vec::new();
    for number in 0..STOPS {
        stops.push(bench.stop(number).await?);
    }
    let report = Report {
        sink: "redis",
        binary_mib: rounded(size),
        idle_rss_mib: rounded(idle),
        peak_rss_mib: rounded(peak),
        records_per_s: rounded(rate),
        first_record_s: rounded(median(&stops, |stop| stop.first)),
        stop_s_median: rounded(median(&stops, |stop| stop.stop)),
        stop_s_longest: rounded(stops.iter().map(|stop| stop.stop).fold(0.0, f64::max)),
        stops_under_load: stops.iter().filter(|stop| stop.written < RECORDS).count(),
    };
    println!("binary, static and stripped       {size:8.1} MiB");
    println!("memory, idle with {PARTITIONS} partitions     {idle:8.1} MiB");
    println!("memory, most at full load         {peak:8.1} MiB");
    println!("records a second at full load     {rate:8.0}");
    println!("exec to first record, median      {:8.3} s", report.first_record_s);
    println!("SIGTERM to exit, median, longest  {:8.3} s {:8.3} s", report.stop_s_median, report.stop_s_longest);
    println!(
        "{STOPS} stops, {} of them with records still to come: each ended with 0, its offsets those of its records",
        report.stops_under_load
    );
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn produce(kafka: &Kafka) -> Result<()> {
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    kafka_client::create_topic(&client, "idle", PARTITIONS).await?;
    kafka_client::create_topic(&client, "load", PARTITIONS).await?;
    let mut producer = Producer::new(&client, "load", PARTITIONS).await?;
    let events = Events::new(1, 1_000, Utc::now());
    for number in 0..RECORDS {
        let key = Some(format!("key-{number}").into_bytes());
        producer.send(number as usize, Record { key, ..events.record(number) }).await?;
    }
    producer.finish().await
}

struct Bench<'a> {
    binary: &'a Path,
    kafka: &'a Kafka,
    redis: &'a Redis,
}

impl Bench<'_> {
    /// Starts one with an empty store and a name of its own.
    async fn start(&self, name: &str, topic: &str) -> Result<(Connector, tempfile::NamedTempFile)> {
        redis_client::flush(&redis_client::connect(&self.redis.url()).await?).await?;
        start(self.binary, name, self.kafka, topic, &[("CONNECT_REDIS_URL", &self.redis.url())])
    }

    /// Resident memory in MiB with every partition assigned and nothing to read, once it has settled.
    async fn idle(&self) -> Result<f64> {
        let (mut connector, _log) = self.start("idle", "idle").await?;
        let begun = Instant::now();
        let (mut last, mut same) = (0.0, 0);
        while same < 10 {
            if begun.elapsed() > PATIENCE {
                bail!("an idle connector's memory doesn't settle; {}", connector.process().log_tail());
            }
            sleep(Duration::from_millis(100)).await;
            let metrics = connector.metrics().await?.unwrap_or_default();
            let memory = metrics.sum("process_resident_memory_bytes", &[]);
            let assigned = metrics.sum("connect_partitions", &[]) as i32 == PARTITIONS;
            same = if assigned && (memory - last).abs() < 0.02 * last { same + 1 } else { 0 };
            last = memory;
        }
        connector.drain().await?;
        Ok(last / MEBIBYTE)
    }

    /// The most resident memory in MiB while everything was read, and records a second.
    async fn full_load(&self) -> Result<(f64, f64)> {
        let (mut connector, _log) = self.start("full-load", "load").await?;
        let begun = Instant::now();
        connector.wait_until_written(RECORDS).await?;
        let rate = RECORDS as f64 / begun.elapsed().as_secs_f64();
        let peak = proc::peak_memory(connector.process().pid())?;
        connector.drain().await?;
        Ok((peak as f64 / MEBIBYTE, rate))
    }

    /// Starts, stops after another number of records each time, and counts what is in the store against its offsets.
    async fn stop(&self, number: u64) -> Result<Stop> {
        let name = format!("stop-{number}");
        let begun = Instant::now();
        let (mut connector, _log) = self.start(&name, "load").await?;
        let flushed = begun.elapsed();
        connector.wait_until_written(1).await?;
        let first = (begun.elapsed() - flushed).as_secs_f64();
        connector.wait_until_written(1 + number * RECORDS / (2 * STOPS)).await?;
        let asked = Instant::now();
        connector.drain().await?;
        let stop = asked.elapsed().as_secs_f64();
        let client = redis_client::connect(&self.redis.url()).await?;
        let offsets = redis_client::offsets(&client, &format!("connect:offsets:{name}")).await?;
        let written = redis_client::size(&client).await?;
        if offsets != written {
            bail!("stop {number}: the store holds {written} records, but its offsets say {offsets}");
        }
        Ok(Stop { first, stop, written })
    }
}
