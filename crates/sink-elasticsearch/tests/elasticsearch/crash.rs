//! Whatever is killed, the documents end as the topic says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use connect_core::{Sink, SinkError, Verdict};
use elasticsearch::http::Method::{Get, Post};
use rskafka::record::Record as KafkaRecord;
use serde_json::Value;
use xtask::effort::share;
use xtask::elasticsearch_client::Client;
use xtask::kafka_client::{Producer, connect, create_topic};
use xtask::process::{Lifetime, Process, command};
use xtask::services::{Elasticsearch, ElasticsearchOptions, Kafka, KafkaOptions};

use crate::support::{batch, elasticsearch_9, record, sink, unique};

const RECORDS: usize = 100_000;
const KEYS: usize = 2_000;
const PARTITIONS: usize = 4;
const KILLS: u64 = 60;
/// A whole run may take this long.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the topic says: the last document of each key, none where that was a tombstone.
type Model = BTreeMap<String, Value>;

/// Updates and deletes of a few keys, again and again. Returns what must be there in the end.
async fn produce(bootstrap: &str, topic: &str, seed: u64) -> Model {
    let mut random = fastrand::Rng::with_seed(seed);
    let client = connect(bootstrap).await.unwrap();
    create_topic(&client, topic, PARTITIONS as i32).await.unwrap();
    let mut producer = Producer::new(&client, topic, PARTITIONS as i32).await.unwrap();
    let mut model = Model::new();
    for n in 0..RECORDS {
        let key = random.usize(..KEYS);
        let name = format!("k{key}");
        let document = (random.u8(..10) > 0).then(|| serde_json::json!({ "n": n, "key": name }));
        match &document {
            Some(document) => model.insert(name.clone(), document.clone()),
            None => model.remove(&name),
        };
        let value = document.map(|document| document.to_string().into_bytes());
        let timestamp = chrono::Utc::now();
        let record = KafkaRecord { key: Some(name.into_bytes()), value, headers: Default::default(), timestamp };
        producer.send(key % PARTITIONS, record).await.unwrap();
    }
    producer.finish().await.unwrap();
    model
}

async fn documents(client: &Client, index: &str) -> Model {
    client.ask(Post, &format!("{index}/_refresh"), "").await.unwrap();
    let found = client.ask(Get, &format!("{index}/_search?size=10000"), "").await.unwrap();
    let hits = found["hits"]["hits"].as_array().unwrap().iter();
    hits.map(|hit| (hit["_id"].as_str().unwrap().to_owned(), hit["_source"].clone())).collect()
}

fn connector(environment: &[(&str, &str)], log: &Path) -> Process {
    let mut command = command(env!("CARGO_BIN_EXE_sink-elasticsearch"), Lifetime::Owned);
    command.env_clear().envs(environment.iter().copied());
    Process::spawn_logged("sink-elasticsearch", command, log).unwrap()
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn sixty_kills_leave_exactly_what_the_topic_says() {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let server = elasticsearch_9().await;
    let kafka = Kafka::start(KafkaOptions::default()).await.unwrap();
    let bootstrap = kafka.bootstrap();
    let topic = unique("killed");
    let model = produce(&bootstrap, &topic, seed).await;
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let environment = [
        ("CONNECT_NAME", topic.as_str()),
        ("CONNECT_KAFKA_BROKERS", &bootstrap),
        ("CONNECT_KAFKA_TOPICS", &topic),
        ("CONNECT_KAFKA_STOP", "end"),
        ("CONNECT_BATCH_RECORDS", "500"),
        ("CONNECT_ADMIN_LISTEN", "127.0.0.1:0"),
        ("CONNECT_ELASTICSEARCH_URLS", &server.url),
    ];
    let mut random = fastrand::Rng::with_seed(seed);
    let mut killed = 0;
    while killed < share(KILLS) {
        let mut process = connector(&environment, &log);
        // Anywhere: before the first request, in the middle of one, between two.
        let life = Duration::from_millis(random.u64(20..800));
        if let Ok(status) = process.wait(life).await {
            assert!(status.success(), "{}", process.log_tail());
        }
        process.kill();
        killed += 1;
    }
    let status = connector(&environment, &log).wait(PATIENCE).await.unwrap();
    assert!(status.success(), "{}", std::fs::read_to_string(&log).unwrap());
    let documents = documents(&server.client, &topic).await;
    assert_eq!(documents.len(), model.len());
    assert!(documents == model, "the documents differ from what the topic says");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn nightly_a_node_that_is_killed_in_the_middle_loses_nothing() {
    let mut server = Elasticsearch::start(ElasticsearchOptions::default()).await.unwrap();
    let (client, index) = (server.client().unwrap(), unique("node"));
    let sink = sink(&server.url(), &[("INDEX", &index)]);
    let writing = async {
        for n in 0..200 {
            let records: Vec<_> =
                (0..50).map(|k| record(n * 50 + k, &format!("k{}", k * 7), &format!(r#"{{"n":{n}}}"#))).collect();
            let batch = batch(&sink, &records);
            loop {
                match sink.write(&batch).await {
                    Ok(outcome) if outcome.exceptions().iter().all(|(_, verdict)| *verdict == Verdict::Superseded) => {
                        break;
                    }
                    Ok(_) | Err(SinkError::Transient { .. }) => tokio::time::sleep(Duration::from_millis(100)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let killing = async {
        while client.count(&index).await.unwrap_or_default() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server.stop();
        server.start_again().await.unwrap();
    };
    tokio::join!(writing, killing);
    let documents = documents(&client, &index).await;
    assert_eq!(documents.len(), 50);
    assert!(documents.values().all(|document| document["n"] == 199), "{documents:?}");
}
