//! `cargo xtask bench couchbase`: the sink beside a bare loop over the official crate, with the guard and without.
//!
//! The server is the in-memory one of this project: it says what the connector costs, not how fast Couchbase is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Load, ROUNDS, Report, Run, median};
use crate::{
    cargo::cargo,
    connector, paths,
    services::{Couchbase, CouchbaseOptions, Kafka, KafkaOptions},
};

const LOAD: Load = Load { topic: "bench", partitions: 4, records: 1_000_000, keys: 100_000, deletes: 0 };
/// Operations that the bare loop has in flight, as many as the sink.
const AT_ONCE: u64 = 256;

/// What the bare loop took.
#[derive(Debug, Clone, Copy)]
struct Limit {
    per_second: f64,
    cpu_s_per_million: f64,
}

/// What one round measured.
struct Round {
    limit: Limit,
    plain: Run,
    guarded: Run,
}

/// Measures sink-couchbase.
///
/// # Errors
/// The set-up failed, or the connector didn't write everything.
pub async fn run() -> Result<()> {
    let binary = connector::build("sink-couchbase", "release")?;
    let bare = build_bare_loop()?;
    println!("starting Kafka; each measurement has an in-memory Couchbase server of this project to itself");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    LOAD.produce(&kafka).await?;
    println!("records/s and CPU s per million");
    println!("round        bare loop            no guard               guard");
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let round = Round {
            limit: bare_loop(&bare).await?,
            plain: measure(&format!("plain-{number}"), &binary, &kafka, "off").await?,
            guarded: measure(&format!("guarded-{number}"), &binary, &kafka, "on").await?,
        };
        round.print(&number.to_string());
        rounds.push(round);
    }
    let runs = |way: fn(&Round) -> Run| rounds.iter().map(way).collect::<Vec<_>>();
    let median = Round {
        limit: Limit {
            per_second: median(&rounds, |round| round.limit.per_second),
            cpu_s_per_million: median(&rounds, |round| round.limit.cpu_s_per_million),
        },
        plain: Run::median(&runs(|round| round.plain)),
        guarded: Run::median(&runs(|round| round.guarded)),
    };
    median.print("median");
    Report::new("couchbase", &median.plain, median.limit.per_second)
        .with("limit_cpu_s_per_million", median.limit.cpu_s_per_million)
        .with("guarded_records_per_s", median.guarded.records_per_s)
        .with("guarded_cpu_s_per_million", median.guarded.cpu_s_per_million)
        .print()
}

fn build_bare_loop() -> Result<PathBuf> {
    let status = cargo()
        .args(["build", "--release", "--package", "sink-couchbase", "--example", "bare_loop"])
        .status()
        .context("can't run cargo")?;
    if !status.success() {
        bail!("the bare loop can't be built, see above");
    }
    Ok(paths::target().join("release/examples/bare_loop"))
}

/// An empty server for each measurement, so that each has the same to do.
async fn server() -> Result<Couchbase> {
    Couchbase::start(CouchbaseOptions { profile: Some("release"), ..CouchbaseOptions::default() }).await
}

async fn bare_loop(program: &Path) -> Result<Limit> {
    let server = server().await?;
    let numbers = [LOAD.records, LOAD.keys, AT_ONCE].map(|number| number.to_string());
    let output = tokio::process::Command::new(program)
        .arg(server.url())
        // Like those of the records: the client compresses what it sends.
        .arg(LOAD.events().value(0))
        .args(numbers)
        .kill_on_drop(true)
        .output()
        .await
        .context("can't run the bare loop")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut figures = text.split_whitespace().filter_map(|figure| figure.parse().ok());
    match (figures.next(), figures.next()) {
        (Some(per_second), Some(cpu_s_per_million)) => Ok(Limit { per_second, cpu_s_per_million }),
        _ => bail!("the bare loop said {text:?} and {:?}", String::from_utf8_lossy(&output.stderr)),
    }
}

async fn measure(name: &str, binary: &Path, kafka: &Kafka, guard: &str) -> Result<Run> {
    let server = server().await?;
    let couchbase = server.environment();
    let mut store: Vec<_> = couchbase.iter().map(|(variable, value)| (*variable, value.as_str())).collect();
    // Without durability, as the bare loop writes.
    store.extend([("CONNECT_COUCHBASE_GUARD", guard), ("CONNECT_COUCHBASE_DURABILITY", "none")]);
    LOAD.run(binary, name, kafka, &store).await
}

impl Round {
    fn print(&self, name: &str) {
        let ways = [
            (self.limit.per_second, self.limit.cpu_s_per_million),
            (self.plain.records_per_s, self.plain.cpu_s_per_million),
            (self.guarded.records_per_s, self.guarded.cpu_s_per_million),
        ];
        let figures = ways.map(|(rate, cpu)| format!("{rate:>9.0} {cpu:>8.1}"));
        println!("{name:<8}{}", figures.map(|figure| format!("{figure:>20}")).concat());
    }
}
