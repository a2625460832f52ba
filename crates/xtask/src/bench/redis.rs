//! `cargo xtask bench redis`: sink-redis beside redis-benchmark and a plain read of the topic, the slower of which is the limit.

use std::{process::Command, time::Instant};

use anyhow::{Context, Result, bail};

use super::{Load, ROUNDS, Report, Run, median};
use crate::{
    connector, kafka_client, redis_client,
    services::{Kafka, KafkaOptions, Redis, RedisOptions},
};

const LOAD: Load = Load { topic: "bench", partitions: 4, records: 1_000_000, keys: 100_000 };

/// What one round measured.
struct Round {
    /// Records/s of a plain read of the topic.
    read: f64,
    /// Requests/s of redis-benchmark.
    store: f64,
    connector: Run,
}

/// Measures sink-redis.
///
/// # Errors
/// The set-up failed, or the connector didn't write everything.
pub async fn run() -> Result<()> {
    let binary = connector::build("sink-redis", "release")?;
    println!("starting Kafka and Redis");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let redis = Redis::start(RedisOptions { memory_only: true, ..RedisOptions::default() }).await?;
    LOAD.produce(&kafka).await?;
    println!("round     plain read  redis-benchmark     sink-redis   start     CPU s   peak RSS");
    println!("           records/s       requests/s      records/s       s   /million        MiB");
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let (read, store) = (plain_read(&kafka).await?, redis_benchmark(&redis)?);
        redis_client::flush(&redis_client::connect(&redis.url()).await?).await?;
        let url = [("CONNECT_REDIS_URL", &*redis.url())];
        let connector = LOAD.run(&binary, &format!("bench-{number}"), &kafka, &url).await?;
        let round = Round { read, store, connector };
        round.print(&number.to_string());
        rounds.push(round);
    }
    let runs: Vec<Run> = rounds.iter().map(|round| round.connector).collect();
    let median = Round {
        read: median(&rounds, |round| round.read),
        store: median(&rounds, |round| round.store),
        connector: Run::median(&runs),
    };
    median.print("median");
    Report::new("redis", &median.connector, median.limit()).print()
}

impl Round {
    fn limit(&self) -> f64 {
        self.read.min(self.store)
    }

    fn print(&self, name: &str) {
        let Run { records_per_s, start_s, cpu_s_per_million, peak_rss_mib } = self.connector;
        let (read, store) = (self.read, self.store);
        println!(
            "{name:<6} {read:>13.0} {store:>16.0} {records_per_s:>14.0} {start_s:>7.3} {cpu_s_per_million:>10.2} {peak_rss_mib:>10.1}"
        );
    }
}

async fn plain_read(kafka: &Kafka) -> Result<f64> {
    let begun = Instant::now();
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    let count = kafka_client::read_all(&client, LOAD.topic, LOAD.partitions).await?;
    if count != LOAD.records {
        bail!("the topic holds {count} records instead of {}", LOAD.records);
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

fn redis_benchmark(redis: &Redis) -> Result<f64> {
    let output = Command::new("redis-benchmark")
        .args(["-p", &redis.port().to_string(), "-t", "set", "-P", "100", "-d", "200"])
        // As many keys as the records have: without `-r` it sets one key over and over, which stays in the processor's cache
        // and is two to three times as fast as any store of 100,000 keys can be.
        .args(["-r", &LOAD.keys.to_string()])
        // Its default of 100,000 is over before it can be measured.
        .args(["-n", &LOAD.records.to_string(), "--csv"])
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
    fn the_limit_is_the_slower_of_reading_and_writing() {
        let connector = Run { records_per_s: 1.0, start_s: 1.0, cpu_s_per_million: 1.0, peak_rss_mib: 1.0 };
        assert_eq!(Round { read: 2_000_000.0, store: 700_000.0, connector }.limit(), 700_000.0);
        assert_eq!(Round { read: 500_000.0, store: 700_000.0, connector }.limit(), 500_000.0);
    }
}
