//! `cargo xtask bench couchbase`: the sink beside a bare loop over the official crate, with the guard and without.
//!
//! The server is the in-memory one of this project: it says what the connector costs, not how fast Couchbase is.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    cargo::cargo,
    connector::{self, Connector},
    events::Events,
    kafka_client::{self, Producer},
    paths, proc,
    services::{Couchbase, CouchbaseOptions, Kafka, KafkaOptions},
};

const RECORDS: u64 = 200_000;
const KEYS: u64 = 20_000;
const PARTITIONS: i32 = 4;
const AT_ONCE: u64 = 256;
const ROUNDS: usize = 3;
const TOPIC: &str = "bench-couchbase";
const POLL: Duration = Duration::from_millis(20);
/// Without an end for this long the connector is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// What one way of writing cost.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    per_second: f64,
    cpu_s_per_million: f64,
    memory_mib: f64,
    start_s: f64,
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
    limit_cpu_s_per_million: f64,
    guarded_records_per_s: f64,
    guarded_cpu_s_per_million: f64,
}

/// Measures sink-couchbase.
///
/// # Errors
/// The set-up failed, or the connector didn't write everything.
pub async fn couchbase() -> Result<()> {
    let binary = connector::build("sink-couchbase", "release")?;
    let bare = build_bare_loop()?;
    println!("starting Kafka and the in-memory Couchbase server of this project");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let events = Events::new(1, KEYS, Utc::now());
    produce(&kafka, &events).await?;
    let bytes = events.value(0).len();
    println!("{RECORDS} records of {bytes} B over {KEYS} keys; records/s and CPU s per million");
    println!("round        bare loop            no guard               guard");
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let limit = bare_loop(&bare, bytes).await?;
        let plain = measure(&format!("plain-{number}"), &binary, &kafka, "off").await?;
        let guarded = measure(&format!("guarded-{number}"), &binary, &kafka, "on").await?;
        print(&number.to_string(), &[limit, plain, guarded]);
        rounds.push([limit, plain, guarded]);
    }
    let [limit, plain, guarded] = [0, 1, 2].map(|way| median(&rounds, way));
    print("median", &[limit, plain, guarded]);
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    let report = Report {
        sink: "couchbase",
        records_per_s: plain.per_second.round(),
        limit_per_s: limit.per_second.round(),
        ratio: rounded(plain.per_second / limit.per_second),
        cpu_s_per_million: rounded(plain.cpu_s_per_million),
        peak_rss_mib: rounded(plain.memory_mib),
        start_s: rounded(plain.start_s),
        limit_cpu_s_per_million: rounded(limit.cpu_s_per_million),
        guarded_records_per_s: guarded.per_second.round(),
        guarded_cpu_s_per_million: rounded(guarded.cpu_s_per_million),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
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

async fn produce(kafka: &Kafka, events: &Events) -> Result<()> {
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    kafka_client::create_topic(&client, TOPIC, PARTITIONS).await?;
    let mut producer = Producer::new(&client, TOPIC, PARTITIONS).await?;
    for number in 0..RECORDS {
        producer.send(events.user(number) as usize, events.record(number)).await?;
    }
    producer.finish().await
}

/// An empty server for each measurement, so that each has the same to do.
async fn server() -> Result<Couchbase> {
    Couchbase::start(CouchbaseOptions { profile: Some("release"), ..CouchbaseOptions::default() }).await
}

async fn bare_loop(program: &Path, bytes: usize) -> Result<Cost> {
    let server = server().await?;
    let numbers = [RECORDS, KEYS, AT_ONCE, bytes as u64].map(|number| number.to_string());
    let output = tokio::process::Command::new(program)
        .arg(server.url())
        .args(numbers)
        .kill_on_drop(true)
        .output()
        .await
        .context("can't run the bare loop")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut figures = text.split_whitespace().filter_map(|figure| figure.parse().ok());
    match (figures.next(), figures.next()) {
        (Some(per_second), Some(cpu_s_per_million)) => Ok(Cost { per_second, cpu_s_per_million, ..Cost::default() }),
        _ => bail!("the bare loop said {text:?} and {:?}", String::from_utf8_lossy(&output.stderr)),
    }
}

async fn measure(name: &str, binary: &Path, kafka: &Kafka, guard: &str) -> Result<Cost> {
    let server = server().await?;
    let log = tempfile::Builder::new().prefix("bench-sink-couchbase-").suffix(".log").tempfile_in(paths::services())?;
    let bootstrap = kafka.bootstrap();
    let couchbase = server.environment();
    let mut environment = vec![
        ("CONNECT_NAME", name),
        ("CONNECT_KAFKA_BROKERS", &bootstrap),
        ("CONNECT_KAFKA_TOPICS", TOPIC),
        ("CONNECT_COUCHBASE_GUARD", guard),
        // As the bare loop does.
        ("CONNECT_COUCHBASE_DURABILITY", "none"),
    ];
    environment.extend(couchbase.iter().map(|(variable, value)| (*variable, value.as_str())));
    let begun = Instant::now();
    let mut connector = Connector::start(binary, &environment, log.path())?;
    let mut first = None;
    loop {
        let written = connector.metrics().await?.unwrap_or_default().written();
        if written > 0 {
            first.get_or_insert_with(|| begun.elapsed().as_secs_f64());
        }
        if written >= RECORDS {
            break;
        }
        if begun.elapsed() > STUCK_AFTER {
            bail!("only {written} of {RECORDS} records were written; {}", connector.process().log_tail());
        }
        sleep(POLL).await;
    }
    let start_s = first.unwrap_or_default();
    // What passes before the first record is the start, which the bare loop's figure has not in it either.
    let seconds = begun.elapsed().as_secs_f64() - start_s;
    let pid = connector.process().pid();
    let cost = Cost {
        per_second: RECORDS as f64 / seconds,
        cpu_s_per_million: proc::cpu_seconds(pid)? * 1e6 / RECORDS as f64,
        memory_mib: proc::peak_memory(pid)? as f64 / f64::from(1 << 20),
        start_s,
    };
    connector.drain().await?;
    Ok(cost)
}

fn median(rounds: &[[Cost; 3]], way: usize) -> Cost {
    let figure = |of: fn(&Cost) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(|round| of(&round[way])).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Cost {
        per_second: figure(|cost| cost.per_second),
        cpu_s_per_million: figure(|cost| cost.cpu_s_per_million),
        memory_mib: figure(|cost| cost.memory_mib),
        start_s: figure(|cost| cost.start_s),
    }
}

fn print(name: &str, costs: &[Cost; 3]) {
    let figures = costs.map(|cost| format!("{:>9.0} {:>8.1}", cost.per_second, cost.cpu_s_per_million));
    println!("{name:<8}{}", figures.map(|figure| format!("{figure:>20}")).concat());
}
