//! `demo elasticsearch`: a clickstream becomes an index, and the index answers questions.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use chrono::Utc;
use elasticsearch::http::Method::{Post, Put};
use serde_json::Value;

use crate::{
    connector::{self, Connector},
    elasticsearch_client::Client,
    events::Events,
    kafka_client::{self, Producer},
    paths,
    services::{Elasticsearch, ElasticsearchOptions, Kafka, KafkaOptions},
};

const TOPIC: &str = "clickstream";
const PARTITIONS: i32 = 4;
const EVENTS: u64 = 100_000;
const USERS: u64 = 1_000;

const MAPPING: &str = r#"{
  "settings": { "number_of_replicas": 0 },
  "mappings": { "properties": {
    "page": { "type": "text" }, "at": { "type": "date" }, "sequence": { "type": "long" },
    "action": { "type": "keyword" }, "device": { "type": "keyword" }, "user": { "type": "keyword" }
  } }
}"#;
const SEARCH: &str = r#"{
  "size": 3, "track_total_hits": true,
  "query": { "match": { "page": "0042" } },
  "sort": [{ "sequence": "desc" }]
}"#;
const AGGREGATION: &str = r#"{
  "size": 0,
  "aggs": { "actions": { "terms": { "field": "action" }, "aggs": { "devices": { "terms": { "field": "device" } } } } }
}"#;

/// Produces 100,000 events, waits until all are in the index, and asks it two questions.
///
/// # Errors
/// The set-up failed, the connector ended or is stuck, or the index holds another number of documents.
pub async fn run() -> Result<()> {
    println!("building sink-elasticsearch");
    let binary = connector::build("sink-elasticsearch", "release")?;
    println!("starting Kafka");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    println!("starting Elasticsearch; that takes a while");
    let server = Elasticsearch::start(ElasticsearchOptions::default()).await?;
    let client = server.client()?;
    client.ask(Put, TOPIC, MAPPING).await?;
    let admin = kafka_client::connect(&kafka.bootstrap()).await?;
    kafka_client::create_topic(&admin, TOPIC, PARTITIONS).await?;
    let directory = tempfile::Builder::new().prefix("demo-").tempdir_in(paths::services().join("run"))?;
    let mut connector = Connector::start(
        &binary,
        &[
            ("CONNECT_NAME", "demo"),
            ("CONNECT_KAFKA_BROKERS", &kafka.bootstrap()),
            ("CONNECT_KAFKA_TOPICS", TOPIC),
            ("CONNECT_ELASTICSEARCH_URLS", &server.url()),
            // A document an event; the key alone would keep the last event of each user.
            ("CONNECT_ELASTICSEARCH_ID", "{topic}+{partition}+{offset}"),
        ],
        &directory.path().join("sink-elasticsearch.log"),
    )?;
    println!("Kafka {} ({TOPIC}, {PARTITIONS} partitions) → sink-elasticsearch → {}", kafka.bootstrap(), server.url());
    let begun = Instant::now();
    let events = Events::new(1, USERS, Utc::now());
    let mut producer = Producer::new(&admin, TOPIC, PARTITIONS).await?;
    for number in 0..EVENTS {
        producer.send(events.user(number) as usize, events.record(number)).await?;
    }
    producer.finish().await?;
    connector.wait_until_written(EVENTS).await?;
    let seconds = begun.elapsed().as_secs_f64();
    connector.drain().await?;
    let count = client.count(TOPIC).await?;
    println!("{EVENTS} events produced, {count} documents, {seconds:.1} s, {:.0} events/s", EVENTS as f64 / seconds);
    search(&client).await?;
    aggregate(&client).await?;
    if count != EVENTS {
        bail!("the index holds {count} documents and not {EVENTS}");
    }
    Ok(())
}

async fn search(client: &Client) -> Result<()> {
    let found = client.ask(Post, &format!("{TOPIC}/_search"), SEARCH).await?;
    let hits = found["hits"]["hits"].as_array().context("no hits in the answer")?;
    println!("\nsearch: \"0042\" in the page: {} events, the last of them", found["hits"]["total"]["value"]);
    for hit in hits {
        let event = &hit["_source"];
        println!(
            "  {} {} {} {}",
            text(&event["at"]),
            text(&event["user"]),
            text(&event["device"]),
            text(&event["page"])
        );
    }
    Ok(())
}

async fn aggregate(client: &Client) -> Result<()> {
    let found = client.ask(Post, &format!("{TOPIC}/_search"), AGGREGATION).await?;
    println!("\naggregation: events by action and device");
    for action in found["aggregations"]["actions"]["buckets"].as_array().context("no buckets in the answer")? {
        let devices = action["devices"]["buckets"].as_array().context("no buckets in the answer")?.iter();
        let devices: Vec<_> =
            devices.map(|device| format!("{} {}", text(&device["key"]), device["doc_count"])).collect();
        println!("  {:<14} {:>7}   {}", text(&action["key"]), action["doc_count"], devices.join("  "));
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
