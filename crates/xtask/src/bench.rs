//! `cargo xtask bench`: how fast a connector is, beside what the machine could do at most in the same run.
//!
//! Here is what the benches share: the topic, one run of a connector over it, the median of several, and the last line of
//! the output, which is for programs. What only one of them has is in its own file.

pub mod autoscaling;
pub mod couchbase;
pub mod elasticsearch;
pub mod footprint;
pub mod partitions;
pub mod redis;

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Result, anyhow};
use chrono::Utc;
use connect_core::{
    config::{KafkaConfig, Section},
    kafka::wire::Cluster,
};
use serde::Serialize;
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use crate::{
    connector::Connector,
    events::Events,
    kafka_client::{self, Producer},
    paths, proc,
    services::Kafka,
};

/// Each figure is the median of so many rounds.
const ROUNDS: usize = 3;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// A topic full of events, produced once and read by each run from its begin to its end.
#[derive(Debug, Clone, Copy)]
struct Load {
    topic: &'static str,
    partitions: i32,
    records: u64,
    /// Over so many keys, those of one key in one partition.
    keys: u64,
    /// So many records in a hundred are tombstones.
    deletes: u64,
}

impl Load {
    fn events(&self) -> Events {
        Events::new(1, self.keys, Utc::now())
    }

    async fn produce(&self, kafka: &Kafka) -> Result<()> {
        let begun = Instant::now();
        let client = kafka_client::connect(&kafka.bootstrap()).await?;
        kafka_client::create_topic(&client, self.topic, self.partitions).await?;
        let mut producer = Producer::new(&client, self.topic, self.partitions).await?;
        let events = self.events();
        for number in 0..self.records {
            let mut record = events.record(number);
            if number % 100 < self.deletes {
                record.value = None;
            }
            producer.send(events.user(number) as usize, record).await?;
        }
        producer.finish().await?;
        println!(
            "produced {} records of {} B over {} keys in {:.1} s",
            self.records,
            events.value(0).len(),
            self.keys,
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Lets a connector write the whole topic. The store has to be empty and `name` a new one, or there is nothing to do.
    async fn run(&self, binary: &Path, name: &str, kafka: &Kafka, store: &[(&str, &str)]) -> Result<Run> {
        let begun = Instant::now();
        let (mut connector, _log) = start(binary, name, kafka, self.topic, store)?;
        connector.wait_until_written(1).await?;
        let start = begun.elapsed().as_secs_f64();
        // With collapse not all of them are written.
        connector.wait_until_done(self.records).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let pid = connector.process().pid();
        let run = Run {
            records_per_s: self.records as f64 / seconds,
            start_s: start,
            cpu_s_per_million: proc::cpu_seconds(pid)? * 1e6 / self.records as f64,
            peak_rss_mib: proc::peak_memory(pid)? as f64 / MEBIBYTE,
        };
        connector.drain().await?;
        Ok(run)
    }
}

/// Our own way to Kafka, for what rskafka does not ask.
fn cluster(kafka: &Kafka, topic: &str) -> Result<Arc<Cluster>> {
    let bootstrap = kafka.bootstrap();
    let settings = [("CONNECT_KAFKA_BROKERS", &*bootstrap), ("CONNECT_KAFKA_TOPICS", topic)];
    let config = KafkaConfig::from_pairs(&settings).map_err(|problems| anyhow!("{problems}"))?;
    Ok(Cluster::new(config))
}

/// Starts a connector between a topic and the store that `store` names. Its log lasts as long as the second value.
fn start(
    binary: &Path,
    name: &str,
    kafka: &Kafka,
    topic: &str,
    store: &[(&str, &str)],
) -> Result<(Connector, NamedTempFile)> {
    let log = tempfile::Builder::new().prefix("bench-").suffix(".log").tempfile_in(paths::services())?;
    let bootstrap = kafka.bootstrap();
    let mut environment =
        vec![("CONNECT_NAME", name), ("CONNECT_KAFKA_BROKERS", &bootstrap), ("CONNECT_KAFKA_TOPICS", topic)];
    environment.extend(store);
    Ok((Connector::start(binary, &environment, log.path())?, log))
}

/// What one run of a connector over a topic took.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// From the connector's start to the last record written.
    records_per_s: f64,
    /// From the connector's start to the first record written.
    start_s: f64,
    cpu_s_per_million: f64,
    /// The most resident memory at once.
    peak_rss_mib: f64,
}

impl Run {
    /// Each figure's own median.
    fn median(runs: &[Self]) -> Self {
        Self {
            records_per_s: median(runs, |run| run.records_per_s),
            start_s: median(runs, |run| run.start_s),
            cpu_s_per_million: median(runs, |run| run.cpu_s_per_million),
            peak_rss_mib: median(runs, |run| run.peak_rss_mib),
        }
    }
}

/// The figure in the middle, the upper one of two.
fn median<R>(rounds: &[R], figure: impl Fn(&R) -> f64) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The last line of the output. Its names are fixed, those of [`Report::more`] are each bench's own.
#[derive(Debug, Serialize)]
struct Report {
    sink: &'static str,
    records_per_s: f64,
    limit_per_s: f64,
    ratio: f64,
    cpu_s_per_million: f64,
    peak_rss_mib: f64,
    start_s: f64,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Report {
    /// Compares a run with what the machine could do at most.
    fn new(sink: &'static str, run: &Run, limit_per_s: f64) -> Self {
        Self {
            sink,
            records_per_s: run.records_per_s.round(),
            limit_per_s: limit_per_s.round(),
            ratio: rounded(run.records_per_s / limit_per_s),
            cpu_s_per_million: rounded(run.cpu_s_per_million),
            peak_rss_mib: rounded(run.peak_rss_mib),
            start_s: rounded(run.start_s),
            more: Map::new(),
        }
    }

    /// Adds a figure of this bench's own.
    fn with(mut self, name: &str, figure: f64) -> Self {
        self.more.insert(name.to_owned(), rounded(figure).into());
        self
    }

    fn print(&self) -> Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}

/// To three digits, or to none where they say nothing.
fn rounded(value: f64) -> f64 {
    if value.abs() >= 1_000.0 { value.round() } else { (value * 1_000.0).round() / 1_000.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Run =
        Run { records_per_s: 630_000.0, start_s: 0.051_23, cpu_s_per_million: 0.876_54, peak_rss_mib: 39.9612 };

    #[test]
    fn the_names_of_the_report_are_fixed_and_a_bench_may_add_its_own() {
        let line = |report| serde_json::to_string(&report).unwrap();
        let common = r#"{"sink":"redis","records_per_s":630000.0,"limit_per_s":700000.0,"ratio":0.9,"cpu_s_per_million":0.877,"peak_rss_mib":39.961,"start_s":0.051"#;
        assert_eq!(line(Report::new("redis", &RUN, 700_000.0)), format!("{common}}}"));
        let more = Report::new("redis", &RUN, 700_000.0).with("guard_cost", 0.123_45).with("plain_per_s", 12_345.67);
        assert_eq!(line(more), format!(r#"{common},"guard_cost":0.123,"plain_per_s":12346.0}}"#));
    }

    #[test]
    fn each_figure_has_a_median_of_its_own() {
        let runs = [3.0, 1.0, 2.0].map(|rate| Run { records_per_s: rate, start_s: 10.0 - rate, ..RUN });
        let median = Run::median(&runs);
        assert_eq!((median.records_per_s, median.start_s, median.peak_rss_mib), (2.0, 8.0, RUN.peak_rss_mib));
    }
}
