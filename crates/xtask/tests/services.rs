//! The servers that other tests stand on: what stops must be stopped, what starts again must have its data.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{path::PathBuf, time::Duration};

use chrono::Utc;
use rskafka::{client::partition::UnknownTopicHandling, record::Record};
use xtask::{
    kafka_client::{Producer, connect, create_topic},
    services::{Kafka, KafkaOptions, Redis, RedisOptions, kafka},
};

fn record(value: &str) -> Record {
    Record {
        key: Some(b"key".to_vec()),
        value: Some(value.as_bytes().to_vec()),
        headers: Default::default(),
        timestamp: Utc::now(),
    }
}

async fn produce(bootstrap: &str, value: &str) {
    let client = connect(bootstrap).await.unwrap();
    let mut producer = Producer::new(&client, "kept", 1).await.unwrap();
    producer.send(0, record(value)).await.unwrap();
    producer.finish().await.unwrap();
}

async fn values(bootstrap: &str) -> Vec<String> {
    let client = connect(bootstrap).await.unwrap();
    let partition = client.partition_client("kept", 0, UnknownTopicHandling::Error).await.unwrap();
    let (records, _) = partition.fetch_records(0, 1..1_000_000, 500).await.unwrap();
    let text = |record: Record| String::from_utf8(record.value.unwrap()).unwrap();
    records.into_iter().map(|found| text(found.record)).collect()
}

async fn kafka_keeps_its_data(version: &str) {
    let mut kafka =
        Kafka::start(KafkaOptions { version: Some(version.to_owned()), ..KafkaOptions::default() }).await.unwrap();
    let bootstrap = kafka.bootstrap();
    // Ready means that a topic can be created at the first try.
    let client = connect(&bootstrap).await.unwrap();
    create_topic(&client, "kept", 1).await.unwrap();
    produce(&bootstrap, "before").await;

    kafka.shutdown().await.unwrap();
    assert!(!kafka.is_running());
    kafka.start_again().await.unwrap();
    assert_eq!(kafka.bootstrap(), bootstrap);
    produce(&bootstrap, "after a shutdown").await;

    kafka.stop();
    assert!(!kafka.is_running());
    kafka.start_again().await.unwrap();
    assert_eq!(values(&bootstrap).await, ["before", "after a shutdown"]);

    kafka.pause().unwrap();
    let frozen = tokio::time::timeout(Duration::from_secs(1), connect(&bootstrap)).await;
    assert!(frozen.is_err(), "a paused broker answered");
    kafka.resume().unwrap();
    connect(&bootstrap).await.unwrap();

    let directory = kafka.directory().to_owned();
    drop(kafka);
    assert!(!directory.exists());
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_older_kafka_keeps_its_data() {
    kafka_keeps_its_data(kafka::VERSIONS[0]).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_newer_kafka_keeps_its_data() {
    kafka_keeps_its_data(kafka::VERSIONS[1]).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_broker_that_cannot_start_says_why() {
    let error = Kafka::start(KafkaOptions {
        properties: vec!["log.retention.hours=soon".to_owned()],
        ..KafkaOptions::default()
    })
    .await
    .unwrap_err();
    assert!(format!("{error:#}").contains("soon"), "{error:#}");
}

fn ask(redis: &Redis, command: &[&str]) -> String {
    let output =
        std::process::Command::new("redis-cli").args(["-p", &redis.port().to_string()]).args(command).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn redis_keeps_its_data_when_it_is_killed() {
    let mut redis = Redis::start(RedisOptions::default()).await.unwrap();
    let port = redis.port();
    assert_eq!(ask(&redis, &["SET", "key", "value"]), "OK");
    redis.stop();
    redis.start_again().await.unwrap();
    assert_eq!(redis.port(), port);
    assert_eq!(ask(&redis, &["GET", "key"]), "value");
    redis.shutdown().await.unwrap();
    redis.start_again().await.unwrap();
    assert_eq!(ask(&redis, &["GET", "key"]), "value");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn redis_with_a_password_is_up_when_it_asks_for_it() {
    let redis = Redis::start(RedisOptions {
        arguments: vec!["--requirepass".to_owned(), "secret".to_owned()],
        ..RedisOptions::default()
    })
    .await
    .unwrap();
    assert!(ask(&redis, &["PING"]).contains("NOAUTH"));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_redis_that_cannot_start_says_why() {
    let error = Redis::start(RedisOptions {
        arguments: vec!["--no-such-setting".to_owned(), "1".to_owned()],
        ..RedisOptions::default()
    })
    .await
    .unwrap_err();
    assert!(format!("{error:#}").contains("no-such-setting"), "{error:#}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_given_directory_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("redis");
    let redis = Redis::start(RedisOptions { directory: Some(path.clone()), ..RedisOptions::default() }).await.unwrap();
    drop(redis);
    assert!(path.join("redis.log").exists());
}
