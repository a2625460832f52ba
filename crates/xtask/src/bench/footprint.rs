//! `cargo xtask bench footprint`: what each connector costs where it runs, and how fast it comes and goes.
//!
//! Measured are the static binaries that the images hold.

mod store;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use connect_core::kafka::coordinator::Coordinator;
use rskafka::record::Record;
use serde::Serialize;
use tokio::time::sleep;

use super::{MEBIBYTE, cluster, median, rounded, start};
use crate::{
    connector::Connector,
    events::Events,
    kafka_client::{self, Producer},
    proc,
    services::{Kafka, KafkaOptions, Store},
    static_binary::{Sources, most_mib},
};

/// The connectors, and how many records each writes: so many that it is at work when half of them are written. Each record has a
/// key of its own, so that the store's can be counted against the offsets.
const SINKS: [(&str, u64); 3] = [("redis", 500_000), ("elasticsearch", 200_000), ("couchbase", 200_000)];
const PARTITIONS: i32 = 4;
const STOPS: u64 = 50;
/// So many stops must have met a connector at work, or little is shown.
const UNDER_LOAD: usize = 40;
/// An idle connector's memory has settled within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// One of the last lines of the output, for programs.
#[derive(Debug, Serialize)]
struct Report {
    sink: &'static str,
    binary_mib: f64,
    binary_limit_mib: f64,
    idle_rss_mib: f64,
    peak_rss_mib: f64,
    records_per_s: f64,
    first_record_s: f64,
    stop_s_median: f64,
    stop_s_longest: f64,
    stops: u64,
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

/// Measures the three.
///
/// # Errors
/// The set-up failed, a stop didn't end with 0, what is in the store and what is committed disagree after it, or a binary weighs
/// too much.
pub async fn run() -> Result<()> {
    println!("starting Kafka");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let sources = Sources::copy()?;
    let mut reports = Vec::new();
    for (sink, records) in SINKS {
        let package = format!("sink-{sink}");
        let binary = sources.build(&package)?;
        println!("{package}: starting its store");
        let store = Store::start(&package, store::PROFILE).await?;
        let mut bench = Bench { sink, records, binary: &binary, kafka: &kafka, store };
        bench.produce().await?;
        let report = bench.measure().await.with_context(|| package)?;
        report.print();
        reports.push(report);
    }
    for report in &reports {
        println!("{}", serde_json::to_string(report)?);
    }
    judge(&reports)
}

fn judge(reports: &[Report]) -> Result<()> {
    for Report { sink, binary_mib, binary_limit_mib, stops_under_load, .. } in reports {
        if binary_mib > binary_limit_mib {
            bail!("sink-{sink} weighs {binary_mib} MiB, and {binary_limit_mib} are the most it may");
        }
        if *stops_under_load < UNDER_LOAD {
            bail!("sink-{sink}: only {stops_under_load} stops met it at work: it needs more records");
        }
    }
    Ok(())
}

impl Report {
    fn print(&self) {
        println!(
            "  binary, static and stripped       {:8.1} MiB of {} at most",
            self.binary_mib, self.binary_limit_mib
        );
        println!("  memory, idle with {PARTITIONS} partitions     {:8.1} MiB", self.idle_rss_mib);
        println!("  memory, most at full load         {:8.1} MiB", self.peak_rss_mib);
        println!("  records a second at full load     {:8.0}", self.records_per_s);
        println!("  exec to first record, median      {:8.3} s", self.first_record_s);
        println!("  SIGTERM to exit, median, longest  {:8.3} s {:8.3} s", self.stop_s_median, self.stop_s_longest);
        println!(
            "  {} stops, {} of them with records still to come: each ended with 0 and committed to Kafka exactly what is in the store",
            self.stops, self.stops_under_load
        );
    }
}

struct Bench<'a> {
    sink: &'static str,
    records: u64,
    binary: &'a Path,
    kafka: &'a Kafka,
    store: Store,
}

impl Bench<'_> {
    /// The topics, one of them with all the records.
    async fn produce(&self) -> Result<()> {
        let client = kafka_client::connect(&self.kafka.bootstrap()).await?;
        kafka_client::create_topic(&client, &self.topic("idle"), PARTITIONS).await?;
        kafka_client::create_topic(&client, &self.topic("load"), PARTITIONS).await?;
        let mut producer = Producer::new(&client, &self.topic("load"), PARTITIONS).await?;
        let events = Events::new(1, 1_000, Utc::now());
        for number in 0..self.records {
            let key = Some(format!("key-{number}").into_bytes());
            producer.send(number as usize, Record { key, ..events.record(number) }).await?;
        }
        producer.finish().await
    }

    /// Names of topics, of indexes and of connectors: each connector has its own.
    fn topic(&self, of: &str) -> String {
        format!("{of}-{}", self.sink)
    }

    async fn measure(&mut self) -> Result<Report> {
        let idle = self.idle().await?;
        let (peak, rate) = self.full_load().await?;
        let mut stops = Vec::new();
        for number in 0..STOPS {
            stops.push(self.stop(number).await.with_context(|| format!("stop {number}"))?);
        }
        Ok(Report {
            sink: self.sink,
            binary_mib: rounded(self.binary.metadata()?.len() as f64 / MEBIBYTE),
            binary_limit_mib: most_mib(self.store.package()),
            idle_rss_mib: rounded(idle),
            peak_rss_mib: rounded(peak),
            records_per_s: rounded(rate),
            first_record_s: rounded(median(&stops, |stop| stop.first)),
            stop_s_median: rounded(median(&stops, |stop| stop.stop)),
            stop_s_longest: rounded(stops.iter().map(|stop| stop.stop).fold(0.0, f64::max)),
            stops: STOPS,
            stops_under_load: stops.iter().filter(|stop| stop.written < self.records).count(),
        })
    }

    /// Empties the store. After it [`start`](Self::start) starts a connector that has everything to do.
    async fn empty(&mut self) -> Result<()> {
        let topic = self.topic("load");
        self.store.empty(&topic).await
    }

    fn start(&self, name: &str, topic: &str) -> Result<(Connector, tempfile::NamedTempFile)> {
        let environment = self.store.environment();
        let store: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        start(self.binary, name, self.kafka, &self.topic(topic), &store)
    }

    /// Resident memory in MiB with every partition assigned and nothing to read, once it has settled.
    async fn idle(&mut self) -> Result<f64> {
        let (mut connector, _log) = self.start(&self.topic("idle"), "idle")?;
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
    async fn full_load(&mut self) -> Result<(f64, f64)> {
        self.empty().await?;
        let (mut connector, _log) = self.start(&self.topic("full-load"), "load")?;
        let begun = Instant::now();
        connector.wait_until_written(self.records).await?;
        let rate = self.records as f64 / begun.elapsed().as_secs_f64();
        let peak = proc::peak_memory(connector.process().pid())?;
        connector.drain().await?;
        Ok((peak as f64 / MEBIBYTE, rate))
    }

    /// Starts, stops after another number of records each time, and compares what is in the store with what is committed.
    async fn stop(&mut self, number: u64) -> Result<Stop> {
        self.empty().await?;
        let name = self.topic(&format!("stop-{number}"));
        let begun = Instant::now();
        let (mut connector, _log) = self.start(&name, "load")?;
        connector.wait_until_written(1).await?;
        let first = begun.elapsed().as_secs_f64();
        connector.wait_until_written(1 + number * self.records / (2 * STOPS)).await?;
        let asked = Instant::now();
        connector.drain().await?;
        let stop = asked.elapsed().as_secs_f64();
        let written = self.store.count(&self.topic("load"), &name).await?;
        let committed = self.committed(&name).await?;
        if committed != written {
            bail!("the store holds {written} records, and Kafka has a commit of {committed}");
        }
        Ok(Stop { first, stop, written })
    }

    /// The sum of the offsets that Kafka holds for the connector's group.
    async fn committed(&self, name: &str) -> Result<u64> {
        let committed = Coordinator::new(cluster(self.kafka, &self.topic("load"))?, name).all_committed().await?;
        Ok(committed.values().map(|committed| committed.offset as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_weighs_too_much_or_was_seldom_at_work_is_refused() {
        let report = |binary_mib, stops_under_load| Report {
            sink: "redis",
            binary_mib,
            binary_limit_mib: 15.0,
            idle_rss_mib: 9.0,
            peak_rss_mib: 40.0,
            records_per_s: 500_000.0,
            first_record_s: 0.1,
            stop_s_median: 0.1,
            stop_s_longest: 0.2,
            stops: STOPS,
            stops_under_load,
        };
        assert!(judge(&[report(14.9, 50), report(15.0, UNDER_LOAD)]).is_ok());
        assert!(judge(&[report(14.9, 50), report(15.1, 50)]).is_err());
        assert!(judge(&[report(14.9, UNDER_LOAD - 1)]).is_err());
    }
}
