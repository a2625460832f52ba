//! `cargo xtask bench redis`: sink-redis beside redis-benchmark and a plain read of the topic, the slower of which is the limit.

use std::{path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, bail};

use super::{Load, ROUNDS, Report, Run, median};
use crate::{
    connector, kafka_client, proc, redis_client,
    services::{Kafka, KafkaOptions, Redis, RedisCluster, RedisOptions},
};

const LOAD: Load = Load { topic: "bench", partitions: 4, records: 1_000_000, keys: 100_000, deletes: 0 };

/// The same with a delete in ten records, for what the guard costs.
const DELETES: Load = Load { topic: "bench-deletes", deletes: 10, ..LOAD };
/// Without a guard: at least once.
const UNGUARDED: (&str, &str) = ("CONNECT_REDIS_OFFSETS", "kafka");
/// What is reported beside the main figures: a name, and the settings.
const OTHERS: &[(&str, &[(&str, &str)])] = &[
    ("set_ttl", &[("CONNECT_REDIS_TTL", "1000h")]),
    ("hset", &[("CONNECT_REDIS_COMMAND", "hset")]),
    ("incrby", &[("CONNECT_REDIS_COMMAND", "incrby")]),
    ("atomic_batch", &[("CONNECT_REDIS_ATOMIC", "batch")]),
    ("collapse", &[("CONNECT_REDIS_COLLAPSE", "true")]),
];

/// What one round measured.
struct Round {
    /// Records/s of a plain read of the topic.
    read: f64,
    /// Requests/s of redis-benchmark.
    store: f64,
    connector: Run,
    /// CPU seconds of Redis for a million of the connector's records.
    redis_cpu: f64,
    /// With deletes, effectively once and at least once.
    guarded: f64,
    unguarded: f64,
}

/// Measures sink-redis.
///
/// # Errors
/// The set-up failed, or the connector didn't write everything.
pub async fn run() -> Result<()> {
    let binary = connector::build("sink-redis", "release")?;
    println!("starting Kafka and Redis");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let in_memory = RedisOptions { memory_only: true, ..RedisOptions::default() };
    let redis = Redis::start(in_memory.clone()).await?;
    LOAD.produce(&kafka).await?;
    DELETES.produce(&kafka).await?;
    let bench = Bench { binary, kafka, redis };
    println!(
        "round     plain read  redis-benchmark     sink-redis   start     CPU s   peak RSS   Redis CPU     SET and DEL   unguarded"
    );
    println!(
        "           records/s       requests/s      records/s       s   /million        MiB  s /million       records/s   records/s"
    );
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let (read, store) = (plain_read(&bench.kafka).await?, redis_benchmark(&bench.redis)?);
        let before = bench.redis_cpu()?;
        let connector = bench.run(LOAD, &format!("bench-{number}"), &[]).await?;
        let round = Round {
            read,
            store,
            connector,
            redis_cpu: (bench.redis_cpu()? - before) * 1e6 / LOAD.records as f64,
            guarded: bench.run(DELETES, &format!("guarded-{number}"), &[]).await?.records_per_s,
            unguarded: bench.run(DELETES, &format!("unguarded-{number}"), &[UNGUARDED]).await?.records_per_s,
        };
        round.print(&number.to_string());
        rounds.push(round);
    }
    let runs: Vec<Run> = rounds.iter().map(|round| round.connector).collect();
    let median = Round {
        read: median(&rounds, |round| round.read),
        store: median(&rounds, |round| round.store),
        connector: Run::median(&runs),
        redis_cpu: median(&rounds, |round| round.redis_cpu),
        guarded: median(&rounds, |round| round.guarded),
        unguarded: median(&rounds, |round| round.unguarded),
    };
    median.print("median");
    let mut report = Report::new("redis", &median.connector, median.limit())
        .with("guard_cost", median.guard_cost())
        .with("redis_cpu_s_per_million", median.redis_cpu);
    println!("\none run each  records/s   CPU s/million   peak RSS MiB");
    for (name, settings) in OTHERS {
        let run = bench.run(LOAD, &format!("bench-{name}"), settings).await?;
        report = also(report, name, run);
    }
    let cluster = RedisCluster::start(0, &in_memory).await?;
    let run = LOAD.run(&bench.binary, "bench-cluster", &bench.kafka, &[("CONNECT_REDIS_URL", &*cluster.url())]).await?;
    also(report, "cluster", run).print()
}

/// What all runs use.
struct Bench {
    binary: PathBuf,
    kafka: Kafka,
    redis: Redis,
}

impl Bench {
    fn redis_cpu(&self) -> Result<f64> {
        proc::cpu_seconds(self.redis.pid().context("Redis does not run")?)
    }

    /// Lets the connector write a topic into the Redis, emptied before.
    async fn run(&self, load: Load, name: &str, settings: &[(&str, &str)]) -> Result<Run> {
        let url = self.redis.url();
        redis_client::flush(&redis_client::connect(&url).await?).await?;
        let mut environment = vec![("CONNECT_REDIS_URL", &*url)];
        environment.extend(settings);
        load.run(&self.binary, name, &self.kafka, &environment).await
    }
}

/// Prints a run and adds it to the report.
fn also(report: Report, name: &str, run: Run) -> Report {
    let Run { records_per_s, cpu_s_per_million, peak_rss_mib, .. } = run;
    println!("{name:<12} {records_per_s:>10.0} {cpu_s_per_million:>15.2} {peak_rss_mib:>14.1}");
    report.with(&format!("{name}_per_s"), records_per_s)
}

impl Round {
    fn limit(&self) -> f64 {
        self.read.min(self.store)
    }

    /// The part of the unguarded rate that effectively-once costs.
    fn guard_cost(&self) -> f64 {
        1.0 - self.guarded / self.unguarded
    }

    fn print(&self, name: &str) {
        let Run { records_per_s, start_s, cpu_s_per_million, peak_rss_mib } = self.connector;
        let Self { read, store, redis_cpu, guarded, unguarded, .. } = self;
        println!(
            "{name:<6} {read:>13.0} {store:>16.0} {records_per_s:>14.0} {start_s:>7.3} {cpu_s_per_million:>10.2} {peak_rss_mib:>10.1} {redis_cpu:>11.2} {guarded:>15.0} {unguarded:>11.0}"
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
        let round = |read| Round {
            read,
            store: 700_000.0,
            connector,
            redis_cpu: 1.0,
            guarded: 400_000.0,
            unguarded: 500_000.0,
        };
        assert_eq!(round(2_000_000.0).limit(), 700_000.0);
        assert_eq!(round(500_000.0).limit(), 500_000.0);
        assert!((round(1.0).guard_cost() - 0.2).abs() < 1e-9);
    }
}
