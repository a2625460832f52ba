//! A reset to a new epoch as docs/operations.md has it, with the connector itself.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::time::Duration;

use chrono::Utc;
use connect_testkit::kill::Binary;
use couchbase_test_server::{Document, Options, Server};
use rskafka::record::Record;
use serde_json::{Value, json};
use xtask::kafka_client::{self, Producer};
use xtask::services::shared;

const RECORDS: u64 = 1_000;
const KEYS: u64 = 100;
/// The connector moves so little in a few seconds.
const PATIENCE: Duration = Duration::from_secs(120);

async fn produce(bootstrap: &str, topic: &str) {
    let client = kafka_client::connect(bootstrap).await.unwrap();
    kafka_client::create_topic(&client, topic, 2).await.unwrap();
    let mut producer = Producer::new(&client, topic, 2).await.unwrap();
    for number in 0..RECORDS {
        let key = format!("k{}", number % KEYS).into_bytes();
        let value = Some(json!({ "n": number }).to_string().into_bytes());
        let record = Record { key: Some(key), value, headers: BTreeMap::new(), timestamp: Utc::now() };
        producer.send((number % 2) as usize, record).await.unwrap();
    }
    producer.finish().await.unwrap();
}

/// Content and epoch of each document.
fn documents(server: &Server, topic: &str) -> BTreeMap<String, (Value, u64)> {
    let epoch = |document: &Document| {
        let entries = document.xattrs["_connect"].as_object().unwrap();
        assert!(entries.keys().all(|partition| partition.starts_with(topic)), "{entries:?}");
        entries.values().map(|entry| entry.get("epoch").map_or(0, |epoch| epoch.as_u64().unwrap())).max().unwrap()
    };
    let documents = server.documents("_default", "_default").into_iter();
    documents.map(|(id, document)| (id, (serde_json::from_slice(&document.value).unwrap(), epoch(&document)))).collect()
}

fn expected(epoch: u64) -> BTreeMap<String, (Value, u64)> {
    (0..KEYS).map(|key| (format!("k{key}"), (json!({ "n": RECORDS - KEYS + key }), epoch))).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: run by cargo xtask test"]
async fn a_reset_to_a_new_epoch_writes_the_topic_again() {
    let bootstrap = shared::kafka().unwrap();
    let topic = format!("epochs-{}", Utc::now().timestamp_micros());
    produce(&bootstrap, &topic).await;
    let server = Server::start(Options::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let connector = Binary::new(env!("CARGO_BIN_EXE_sink-couchbase"))
        .env("CONNECT_NAME", &topic)
        .env("CONNECT_KAFKA_BROKERS", &bootstrap)
        .env("CONNECT_KAFKA_TOPICS", &topic)
        .env("CONNECT_KAFKA_STOP", "end")
        .env("CONNECT_KAFKA_ASSIGNMENT", "static")
        .env("CONNECT_ADMIN_LISTEN", "127.0.0.1:0")
        .env("CONNECT_COUCHBASE_URL", server.url())
        .env("CONNECT_COUCHBASE_USERNAME", "Administrator")
        .env("CONNECT_COUCHBASE_PASSWORD", "password")
        .env("CONNECT_COUCHBASE_BUCKET", "default")
        .log(&log);
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    let end = async |connector: &Binary| -> ExitStatus {
        let ended = connector.start().unwrap().wait(PATIENCE).await;
        ended.unwrap_or_else(|error| panic!("{error}:\n{}", logged()))
    };
    assert!(end(&connector).await.success(), "{}", logged());
    assert_eq!(documents(&server, &topic), expected(0));

    // What another program did to a document is mended by nothing but a new epoch.
    let spoilt = server.document("k7").unwrap();
    server.put("k7", Document { value: b"{}".to_vec(), ..spoilt });
    let reset = ["offsets", "reset", "--to", "earliest", "--new-epoch"];
    let reset = reset.iter().fold(connector.clone(), |command, argument| command.arg(*argument));
    assert!(end(&reset).await.success(), "{}", logged());
    assert!(logged().contains("set CONNECT_EPOCH=1"), "{}", logged());
    assert_eq!(end(&connector).await.code(), Some(1), "Kafka's commits know of it");
    assert!(logged().contains("offsets were committed in epoch 1"), "{}", logged());
    assert!(end(&connector.clone().env("CONNECT_EPOCH", "1")).await.success(), "{}", logged());
    assert_eq!(documents(&server, &topic), expected(1));

    // The setting is taken back, and what was committed is gone: the documents know of it, too.
    let forgotten = connector.env("CONNECT_KAFKA_GROUP", format!("{topic}-forgotten"));
    assert_eq!(end(&forgotten).await.code(), Some(1), "{}", logged());
    assert!(logged().contains("there are documents of epoch 1"), "{}", logged());
    assert_eq!(documents(&server, &topic), expected(1), "it changed nothing");
}
