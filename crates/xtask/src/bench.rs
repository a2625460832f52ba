//! `cargo xtask bench`: how fast a connector is, beside what the machine could do at most in the same run.

pub mod autoscaling;
mod elasticsearch;
pub mod footprint;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    connector::{self, Connector},
    events::Events,
    kafka_client::{self, Producer},
    paths, proc, redis_client,
    services::{Kafka, KafkaOptions, Redis, RedisOptions},
};

pub use elasticsearch::elasticsearch;

const RECORDS: u64 = 1_000_000;
const KEYS: u64 = 100_000;
const PARTITIONS: i32 = 4;
const ROUNDS: usize = 3;
const TOPIC: &str = "bench";
/// Often enough for the figures, seldom enough not to slow the connector down.
const POLL: Duration = Duration::from_millis(20);
/// Without progress for this long the connector is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What one round measured.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// Records/s of a plain read of the topic.
    read: f64,
    /// Requests/s of redis-benchmark.
    store: f64,
    /// Records/s of the connector, from its start to the last record written.
    connector: f64,
    /// Seconds from the connector's start to the first record written.
    start: f64,
    /// CPU seconds of the connector for a million records.
    cpu: f64,
    /// Its peak resident memory in MiB.
    memory: f64,
}

/// The last line of the output, for programs.
#[derive(Debug, Serialize)]
struct Report {
    sink: &'static str,
    records_per_s: f64,
    limit_per_s: f64,
    ratio: f64,
    cpu_s_per_million: f64,
    peak_rss_mib: f64,
    start_s: f64,
}

/// Measures sink-redis.
///
/// # Errors
/// The set-up failed, or the connector didn't write everything.
pub async fn redis() -> Result<()> {
    let binary = connector::build("sink-redis", "release")?;
    println!("starting Kafka and Redis");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let redis = Redis::start(RedisOptions { memory_only: true, ..RedisOptions::default() }).await?;
    produce(&kafka, RECORDS).await?;
    println!("round     plain read  redis-benchmark     sink-redis   start     CPU s   peak RSS");
    println!("           records/s       requests/s      records/s       s   /million        MiB");
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let round = measure(number, &binary, &kafka, &redis).await?;
        print(&number.to_string(), &round);
        rounds.push(round);
    }
    let median = Round {
        read: median(&rounds, |round| round.read),
        store: median(&rounds, |round| round.store),
        connector: median(&rounds, |round| round.connector),
        start: median(&rounds, |round| round.start),
        cpu: median(&rounds, |round| round.cpu),
        memory: median(&rounds, |round| round.memory),
    };
    print("median", &median);
    println!("{}", serde_json::to_string(&report("redis", &median))?);
    Ok(())
}

async fn produce(kafka: &Kafka, records: u64) -> Result<()> {
    let begun = Instant::now();
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    kafka_client::create_topic(&client, TOPIC, PARTITIONS).await?;
    let mut producer = Producer::new(&client, TOPIC, PARTITIONS).await?;
    let events = Events::new(1, KEYS, Utc::now());
    for number in 0..records {
        let partition = events.user(number) as usize;
        producer.send(partition, events.record(number)).await?;
    }
    producer.finish().await?;
    println!(
        "produced {records} records of {} B over {KEYS} keys in {:.1} s",
        events.value(0).len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn measure(number: usize, binary: &Path, kafka: &Kafka, redis: &Redis) -> Result<Round> {
    let read = plain_read(kafka).await?;
    let store = redis_benchmark(redis)?;
    // An empty store and a name of its own: each round begins at the first record.
    redis_client::flush(&redis_client::connect(&redis.url()).await?).await?;
    let log = tempfile::Builder::new().prefix("bench-sink-redis-").suffix(".log").tempfile_in(paths::services())?;
    let begun = Instant::now();
    let mut connector = Connector::start(
        binary,
        &[
            ("CONNECT_NAME", &format!("bench-{number}")),
            ("CONNECT_KAFKA_BROKERS", &kafka.bootstrap()),
            ("CONNECT_KAFKA_TOPICS", TOPIC),
            ("CONNECT_REDIS_URL", &redis.url()),
        ],
        log.path(),
    )?;
    wait_until_written(&mut connector, 1, RECORDS).await?;
    let start = begun.elapsed().as_secs_f64();
    wait_until_written(&mut connector, RECORDS, RECORDS).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let pid = connector.process().pid();
    let cpu = proc::cpu_seconds(pid)?;
    let memory = proc::peak_memory(pid)?;
    connector.drain().await?;
    Ok(Round {
        read,
        store,
        connector: RECORDS as f64 / seconds,
        start,
        cpu: cpu * 1e6 / RECORDS as f64,
        memory: memory as f64 / f64::from(1 << 20),
    })
}

/// Waits until `count` of all `records` are written.
async fn wait_until_written(connector: &mut Connector, count: u64, records: u64) -> Result<()> {
    let mut written = 0;
    let mut progress = Instant::now();
    loop {
        let now = connector.metrics().await?.unwrap_or_default().written();
        if now >= count {
            return Ok(());
        }
        if now > written {
            written = now;
            progress = Instant::now();
        }
        if progress.elapsed() > STUCK_AFTER {
            bail!(
                "only {written} of {records} records were written and nothing more for {STUCK_AFTER:?}; {}",
                connector.process().log_tail()
            );
        }
        // The first record is waited for closely; a connector that starts has no work yet that this could disturb.
        sleep(if count == 1 { POLL / 10 } else { POLL }).await;
    }
}

async fn plain_read(kafka: &Kafka) -> Result<f64> {
    let begun = Instant::now();
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    let count = kafka_client::read_all(&client, TOPIC, PARTITIONS).await?;
    if count != RECORDS {
        bail!("the topic holds {count} records instead of {RECORDS}");
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

fn redis_benchmark(redis: &Redis) -> Result<f64> {
    let port = redis.port().to_string();
    let requests = RECORDS.to_string();
    let output = Command::new("redis-benchmark")
        .args(["-p", &port, "-t", "set", "-P", "100", "-d", "200"])
        // As many keys as the records have: without `-r` it sets one key over and over, which stays in the processor's cache
        // and is two to three times as fast as any store of 100,000 keys can be.
        .args(["-r", &KEYS.to_string()])
        // Its default of 100,000 is over before it can be measured.
        .args(["-n", &requests, "--csv"])
        .output()
        .context("can't run redis-benchmark")?;
    let text = String::from_utf8_lossy(&output.stdout);
    requests_per_second(&text).with_context(|| format!("redis-benchmark said {text:?}"))
}

/// From lines such as `"SET","704225.31","0.500",…`.
fn requests_per_second(csv: &str) -> Option<f64> {
    let line = csv.lines().find_map(|line| line.strip_prefix("\"SET\",\""))?;
    line.split('"').next()?.parse().ok()
}

fn report(sink: &'static str, median: &Round) -> Report {
    let limit = median.read.min(median.store);
    Report {
        sink,
        records_per_s: median.connector.round(),
        limit_per_s: limit.round(),
        ratio: rounded(median.connector / limit, 3),
        cpu_s_per_million: rounded(median.cpu, 3),
        peak_rss_mib: rounded(median.memory, 1),
        start_s: rounded(median.start, 3),
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

fn median<R>(rounds: &[R], figure: impl Fn(&R) -> f64) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn print(name: &str, round: &Round) {
    println!(
        "{name:<6} {:>13.0} {:>16.0} {:>14.0} {:>7.3} {:>10.2} {:>10.1}",
        round.read, round.store, round.connector, round.start, round.cpu, round.memory
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_in_what_redis_benchmark_says() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"704225.31\",\"0.500\"\n";
        assert_eq!(requests_per_second(csv), Some(704_225.31));
        assert_eq!(requests_per_second("Could not connect"), None);
    }

    #[test]
    fn the_report_compares_with_the_smaller_limit() {
        let round = Round {
            read: 2_000_000.0,
            store: 700_000.0,
            connector: 630_000.0,
            start: 0.051_23,
            cpu: 0.876_54,
            memory: 39.96,
        };
        let line = serde_json::to_string(&report("redis", &round)).unwrap();
        assert_eq!(
            line,
            r#"{"sink":"redis","records_per_s":630000.0,"limit_per_s":700000.0,"ratio":0.9,"cpu_s_per_million":0.877,"peak_rss_mib":40.0,"start_s":0.051}"#
        );
    }
}
