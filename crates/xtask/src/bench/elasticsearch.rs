//! How fast sink-elasticsearch is, beside a loop that posts bulk bodies which were built before.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use ::elasticsearch::http::Method::{Delete, Post, Put};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use chrono::Utc;
use serde::Serialize;

use super::{KEYS, PARTITIONS, ROUNDS, TOPIC, median, produce, rounded, wait_until_written};
use crate::{
    connector::{self, Connector},
    elasticsearch_client::Client,
    events::Events,
    paths, proc,
    services::{Elasticsearch, ElasticsearchOptions, Kafka, KafkaOptions},
};

const RECORDS: u64 = 300_000;
/// Documents in a body of the loop, and bodies in flight.
const BODY: u64 = 1_000;
const IN_FLIGHT: usize = 4;
/// What both write to: made anew for each, without replicas, and as a person would map such events.
const INDEX: &str = r#"{"settings":{"number_of_shards":1,"number_of_replicas":0}}"#;

/// What one round measured.
struct Round {
    /// Documents/s of the loop, and per CPU second of the server.
    limit: f64,
    limit_per_cpu: f64,
    /// The same of the connector, from its start on.
    connector: f64,
    connector_per_cpu: f64,
    /// Seconds from the connector's start to the first document.
    start: f64,
    /// CPU seconds of the connector for a million records.
    cpu: f64,
    /// Its peak resident memory in MiB.
    memory: f64,
}

/// The last line of the output, for programs.
#[derive(Serialize)]
struct Report {
    sink: &'static str,
    records_per_s: f64,
    limit_per_s: f64,
    ratio: f64,
    cpu_s_per_million: f64,
    peak_rss_mib: f64,
    start_s: f64,
    records_per_server_cpu_s: f64,
    limit_per_server_cpu_s: f64,
}

/// Measures sink-elasticsearch.
///
/// # Errors
/// The set-up failed, or the connector didn't write everything.
pub async fn elasticsearch() -> Result<()> {
    let binary = connector::build("sink-elasticsearch", "release")?;
    println!("starting Kafka and Elasticsearch");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let server = Elasticsearch::start(ElasticsearchOptions::default()).await?;
    produce(&kafka, RECORDS).await?;
    let bodies = bodies();
    // The server compiles itself while it works: the first documents of its life say nothing.
    post(&server.client()?, "warm", &bodies).await?;
    println!("round    bulk loop  per server   sink-elasticsearch  per server   start     CPU s   peak RSS");
    println!("        documents/s     CPU s          documents/s     CPU s       s   /million        MiB");
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let round = measure(number, &binary, &kafka, &server, &bodies).await?;
        print(&number.to_string(), &round);
        rounds.push(round);
    }
    let middle = Round {
        limit: median(&rounds, |round| round.limit),
        limit_per_cpu: median(&rounds, |round| round.limit_per_cpu),
        connector: median(&rounds, |round| round.connector),
        connector_per_cpu: median(&rounds, |round| round.connector_per_cpu),
        start: median(&rounds, |round| round.start),
        cpu: median(&rounds, |round| round.cpu),
        memory: median(&rounds, |round| round.memory),
    };
    print("median", &middle);
    let report = Report {
        sink: "elasticsearch",
        records_per_s: middle.connector.round(),
        limit_per_s: middle.limit.round(),
        ratio: rounded(middle.connector / middle.limit, 3),
        cpu_s_per_million: rounded(middle.cpu, 3),
        peak_rss_mib: rounded(middle.memory, 1),
        start_s: rounded(middle.start, 3),
        records_per_server_cpu_s: middle.connector_per_cpu.round(),
        limit_per_server_cpu_s: middle.limit_per_cpu.round(),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// The same documents under the same ids, with the same kind of version, as the connector writes.
fn bodies() -> Vec<Bytes> {
    let events = Events::new(1, KEYS, Utc::now());
    let mut offsets = vec![0_u64; PARTITIONS as usize];
    let mut bodies = Vec::new();
    for first in (0..RECORDS).step_by(BODY as usize) {
        let mut body = String::new();
        for number in first..RECORDS.min(first + BODY) {
            let user = events.user(number);
            let offset = &mut offsets[user as usize % PARTITIONS as usize];
            body.push_str(&format!(
                "{{\"index\":{{\"_id\":\"{}\",\"version\":{offset},\"version_type\":\"external\"}}}}\n{}\n",
                Events::key(user),
                events.value(number)
            ));
            *offset += 1;
        }
        bodies.push(body.into());
    }
    bodies
}

/// Posts all bodies, a few at once.
async fn post(client: &Client, index: &str, bodies: &[Bytes]) -> Result<()> {
    client.ask(Put, index, INDEX).await?;
    let path = format!("{index}/_bulk?filter_path=errors");
    let next = AtomicUsize::new(0);
    let sender = || async {
        while let Some(body) = bodies.get(next.fetch_add(1, Relaxed)) {
            client.ask(Post, &path, body.clone()).await?;
        }
        anyhow::Ok(())
    };
    // Bodies overtake each other, so some documents are refused for a newer version: work for the server all the same.
    let senders: [_; IN_FLIGHT] = std::array::from_fn(|_| sender());
    for done in futures::future::join_all(senders).await {
        done?;
    }
    Ok(())
}

async fn measure(
    number: usize,
    binary: &Path,
    kafka: &Kafka,
    server: &Elasticsearch,
    bodies: &[Bytes],
) -> Result<Round> {
    let client = server.client()?;
    let pid = server.pid().context("the server doesn't run")?;
    let cpu_before = proc::cpu_seconds(pid)?;
    let begun = Instant::now();
    post(&client, "limit", bodies).await?;
    let limit = RECORDS as f64 / begun.elapsed().as_secs_f64();
    let limit_per_cpu = RECORDS as f64 / (proc::cpu_seconds(pid)? - cpu_before);
    client.ask(Delete, "limit", "").await?;

    client.ask(Put, TOPIC, INDEX).await?;
    let log =
        tempfile::Builder::new().prefix("bench-sink-elasticsearch-").suffix(".log").tempfile_in(paths::services())?;
    let cpu_before = proc::cpu_seconds(pid)?;
    let begun = Instant::now();
    let mut connector = Connector::start(
        binary,
        &[
            ("CONNECT_NAME", &format!("bench-{number}")),
            ("CONNECT_KAFKA_BROKERS", &kafka.bootstrap()),
            ("CONNECT_KAFKA_TOPICS", TOPIC),
            ("CONNECT_ELASTICSEARCH_URLS", &server.url()),
        ],
        log.path(),
    )?;
    wait_until_written(&mut connector, 1, RECORDS).await?;
    let start = begun.elapsed().as_secs_f64();
    wait_until_written(&mut connector, RECORDS, RECORDS).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let connector_per_cpu = RECORDS as f64 / (proc::cpu_seconds(pid)? - cpu_before);
    let own = connector.process().pid();
    let (cpu, memory) = (proc::cpu_seconds(own)?, proc::peak_memory(own)?);
    connector.drain().await?;
    let count = client.count(TOPIC).await?;
    if count == 0 || count > KEYS {
        bail!("{count} documents are in the index, and there are {KEYS} keys");
    }
    client.ask(Delete, TOPIC, "").await?;
    Ok(Round {
        limit,
        limit_per_cpu,
        connector: RECORDS as f64 / seconds,
        connector_per_cpu,
        start,
        cpu: cpu * 1e6 / RECORDS as f64,
        memory: memory as f64 / f64::from(1 << 20),
    })
}

fn print(name: &str, round: &Round) {
    println!(
        "{name:<6} {:>12.0} {:>9.0} {:>20.0} {:>9.0} {:>7.2} {:>10.2} {:>10.1}",
        round.limit,
        round.limit_per_cpu,
        round.connector,
        round.connector_per_cpu,
        round.start,
        round.cpu,
        round.memory
    );
}
