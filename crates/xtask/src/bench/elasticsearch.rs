//! `cargo xtask bench elasticsearch`: sink-elasticsearch beside a loop that posts bulk bodies which were built before.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use ::elasticsearch::http::Method::{Delete, Post, Put};
use anyhow::{Context, Result, bail};
use bytes::Bytes;

use super::{Load, ROUNDS, Report, Run, median};
use crate::{
    connector,
    elasticsearch_client::Client,
    events::Events,
    proc,
    services::{Elasticsearch, ElasticsearchOptions, Kafka, KafkaOptions},
};

const LOAD: Load = Load { topic: "bench", partitions: 4, records: 300_000, keys: 100_000, deletes: 0 };
/// Documents in a body of the loop, and bodies in flight.
const BODY: u64 = 1_000;
const IN_FLIGHT: usize = 4;
/// What both write to: made anew for each, without replicas, mapped by the server as the documents come.
const INDEX: &str = r#"{"settings":{"number_of_shards":1,"number_of_replicas":0}}"#;

/// What one round measured.
struct Round {
    /// Documents/s of the loop, and per CPU second of the server.
    limit: f64,
    limit_per_cpu: f64,
    connector: Run,
    connector_per_cpu: f64,
}

/// Measures sink-elasticsearch.
///
/// # Errors
/// The set-up failed, or the connector didn't write everything.
pub async fn run() -> Result<()> {
    let binary = connector::build("sink-elasticsearch", "release")?;
    println!("starting Kafka and Elasticsearch");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let server = Elasticsearch::start(ElasticsearchOptions::default()).await?;
    LOAD.produce(&kafka).await?;
    let bodies = bodies();
    // The server compiles itself while it works: the first documents of its life say nothing.
    let client = server.client()?;
    post(&client, "warm", &bodies).await?;
    client.ask(Delete, "warm", "").await?;
    println!("round    bulk loop  per server   sink-elasticsearch  per server   start     CPU s   peak RSS");
    println!("        documents/s     CPU s          documents/s     CPU s       s   /million        MiB");
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let round = measure(number, &binary, &kafka, &server, &bodies).await?;
        round.print(&number.to_string());
        rounds.push(round);
    }
    let runs: Vec<Run> = rounds.iter().map(|round| round.connector).collect();
    let median = Round {
        limit: median(&rounds, |round| round.limit),
        limit_per_cpu: median(&rounds, |round| round.limit_per_cpu),
        connector: Run::median(&runs),
        connector_per_cpu: median(&rounds, |round| round.connector_per_cpu),
    };
    median.print("median");
    Report::new("elasticsearch", &median.connector, median.limit)
        .with("records_per_server_cpu_s", median.connector_per_cpu)
        .with("limit_per_server_cpu_s", median.limit_per_cpu)
        .print()
}

/// The same documents under the same ids, with the same kind of version, as the connector writes.
fn bodies() -> Vec<Bytes> {
    let events = LOAD.events();
    let mut offsets = vec![0_u64; LOAD.partitions as usize];
    let mut bodies = Vec::new();
    for first in (0..LOAD.records).step_by(BODY as usize) {
        let mut body = String::new();
        for number in first..LOAD.records.min(first + BODY) {
            let user = events.user(number);
            let offset = &mut offsets[user as usize % LOAD.partitions as usize];
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
    let records = LOAD.records as f64;
    let cpu_before = proc::cpu_seconds(pid)?;
    let begun = Instant::now();
    post(&client, "limit", bodies).await?;
    let limit = records / begun.elapsed().as_secs_f64();
    let limit_per_cpu = records / (proc::cpu_seconds(pid)? - cpu_before);
    client.ask(Delete, "limit", "").await?;

    client.ask(Put, LOAD.topic, INDEX).await?;
    let cpu_before = proc::cpu_seconds(pid)?;
    let urls = [("CONNECT_ELASTICSEARCH_URLS", &*server.url())];
    let connector = LOAD.run(binary, &format!("bench-{number}"), kafka, &urls).await?;
    let connector_per_cpu = records / (proc::cpu_seconds(pid)? - cpu_before);
    let count = client.count(LOAD.topic).await?;
    if count == 0 || count > LOAD.keys {
        bail!("{count} documents are in the index, and there are {} keys", LOAD.keys);
    }
    client.ask(Delete, LOAD.topic, "").await?;
    Ok(Round { limit, limit_per_cpu, connector, connector_per_cpu })
}

impl Round {
    fn print(&self, name: &str) {
        println!(
            "{name:<6} {:>12.0} {:>9.0} {:>20.0} {:>9.0} {:>7.2} {:>10.2} {:>10.1}",
            self.limit,
            self.limit_per_cpu,
            self.connector.records_per_s,
            self.connector_per_cpu,
            self.connector.start_s,
            self.connector.cpu_s_per_million,
            self.connector.peak_rss_mib
        );
    }
}
