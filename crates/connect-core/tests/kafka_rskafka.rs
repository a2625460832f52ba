//! The simple reader, the dead-letter topic and the static assignment against a real broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use connect_core::config::{KafkaConfig, Section};
use connect_core::kafka::{Connection, KafkaDeadLetterTopic, RskafkaSource};
use connect_core::{
    Budget, DeadLetter, DeadLetterError, DeadLetterTopic, Fetched, Header, Position, Record, Rejection, Source,
    SourceError, TopicPartition,
};
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::record::Record as Produced;

fn brokers() -> String {
    std::env::var("SYSTEM_TEST_KAFKA").expect("SYSTEM_TEST_KAFKA=host:port of a broker that may be written to")
}

fn connection(topics: &[&str]) -> Arc<Connection> {
    connection_to(&brokers(), topics)
}

fn connection_to(brokers: &str, topics: &[&str]) -> Arc<Connection> {
    let topics = if topics.is_empty() { "none-of-them".to_owned() } else { topics.join(",") };
    let pairs = [("CONNECT_KAFKA_BROKERS", brokers), ("CONNECT_KAFKA_TOPICS", topics.as_str())];
    Connection::new(KafkaConfig::from_pairs(&pairs).expect("a configuration"))
}

/// A name that no other test uses, nor an earlier run.
fn unique(name: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_nanos();
    format!("{name}-{now}")
}

async fn create(connection: &Connection, topic: &str, partitions: i32) {
    let controller = connection.client().await.expect("a client").controller_client().expect("a controller");
    controller.create_topic(topic, partitions, 1, 10_000).await.expect("a topic");
}

fn produced(key: Option<&str>, value: Option<&[u8]>) -> Produced {
    Produced {
        key: key.map(|key| key.as_bytes().to_vec()),
        value: value.map(<[u8]>::to_vec),
        headers: BTreeMap::new(),
        // Kafka keeps milliseconds.
        timestamp: DateTime::from_timestamp_millis(Utc::now().timestamp_millis()).expect("a time"),
    }
}

async fn produce(connection: &Connection, topic: &str, records: Vec<Produced>, compression: Compression) {
    let client = connection.client().await.expect("a client");
    let partition = client.partition_client(topic, 0, UnknownTopicHandling::Retry).await.expect("a leader");
    partition.produce(records, compression).await.expect("produced");
}

/// Fetches until something comes.
async fn fetch(source: &RskafkaSource, partition: &TopicPartition, offset: i64) -> Fetched {
    for _ in 0..20 {
        let fetched = source.fetch(partition, offset).await.expect("a fetch");
        if !fetched.records.is_empty() {
            return fetched;
        }
    }
    panic!("nothing came in 20 fetches");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn records_arrive_as_they_were_in_every_codec() {
    let connection = connection(&[]);
    let budget = Budget::new(24 << 20);
    let source = RskafkaSource::new(Arc::clone(&connection), Arc::clone(&budget));
    for codec in [Compression::NoCompression, Compression::Gzip, Compression::Lz4, Compression::Snappy] {
        let topic = unique("codec");
        create(&connection, &topic, 1).await;
        let mut with_headers = produced(Some("k"), Some(b"v"));
        with_headers.headers.insert("trace".to_owned(), vec![1, 2]);
        let timestamp = with_headers.timestamp.timestamp_millis();
        let records = vec![
            with_headers,
            produced(Some("gone"), None),
            produced(None, Some(b"")),
            produced(Some("x"), Some(&[b'x'; 5000])),
        ];
        produce(&connection, &topic, records, codec).await;

        let partition = TopicPartition::new(topic.as_str(), 0);
        let fetched = fetch(&source, &partition, 0).await;
        assert_eq!((fetched.next, fetched.high_watermark, fetched.records.len()), (4, 4, 4), "{codec:?}");
        let first = &fetched.records[0];
        assert_eq!((first.key.as_deref(), first.value.as_deref()), (Some(&b"k"[..]), Some(&b"v"[..])));
        assert!(first.headers == [Header { key: "trace".into(), value: Some(vec![1, 2].into()) }]);
        assert_eq!(first.timestamp, timestamp);
        assert_eq!(fetched.records[1].value, None, "a tombstone");
        assert_eq!((fetched.records[2].key.clone(), fetched.records[2].value.as_deref()), (None, Some(&b""[..])));
        assert_eq!(fetched.records[3].offset, 3);
        assert!(budget.used() >= fetched.records.iter().map(Record::bytes).sum());
        drop(fetched);
        assert_eq!(budget.used(), 0);

        let fetched = fetch(&source, &partition, 2).await;
        assert_eq!(
            fetched.records.iter().map(|record| record.offset).collect::<Vec<_>>(),
            [2, 3],
            "none below the offset"
        );
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn at_the_end_a_fetch_waits_and_holds_nothing() {
    let connection = connection(&[]);
    let topic = unique("idle");
    create(&connection, &topic, 1).await;
    let budget = Budget::new(1 << 20);
    let source = RskafkaSource::new(connection, Arc::clone(&budget));
    let fetched = source.fetch(&TopicPartition::new(topic.as_str(), 0), 0).await.expect("a fetch");
    assert_eq!((fetched.records.len(), fetched.next, budget.used()), (0, 0, 0));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_record_larger_than_the_budget_gets_through() {
    let connection = connection(&[]);
    let topic = unique("large");
    create(&connection, &topic, 1).await;
    produce(
        &connection,
        &topic,
        (0..8).map(|_| produced(None, Some(&[7; 900 << 10]))).collect::<Vec<_>>().split_off(7),
        Compression::NoCompression,
    )
    .await;
    let budget = Budget::new(64 << 10);
    let source = RskafkaSource::new(connection, Arc::clone(&budget));
    let fetched = fetch(&source, &TopicPartition::new(topic.as_str(), 0), 0).await;
    assert_eq!(fetched.records[0].value.as_ref().map(|value| value.len()), Some(900 << 10));
    assert_eq!(budget.used(), budget.limit());
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn positions_are_found() {
    let connection = connection(&[]);
    let topic = unique("positions");
    create(&connection, &topic, 1).await;
    let mut records: Vec<_> = (0..3).map(|_| produced(None, Some(b"v"))).collect();
    let start = records[0].timestamp.timestamp_millis();
    for (index, record) in records.iter_mut().enumerate() {
        record.timestamp = DateTime::from_timestamp_millis(start + index as i64 * 10).expect("a time");
    }
    produce(&connection, &topic, records, Compression::NoCompression).await;
    let source = RskafkaSource::new(connection, Budget::new(1 << 20));
    let partition = TopicPartition::new(topic.as_str(), 0);
    for (position, offset) in [
        (Position::Earliest, 0),
        (Position::Latest, 3),
        (Position::Timestamp(start + 5), 1),
        (Position::Timestamp(start + 60_000), 3),
    ] {
        assert_eq!(source.offset(&partition, position).await, Ok(offset), "{position:?}");
    }
    assert_eq!(
        source.fetch(&partition, 17).await.expect_err("beyond the end"),
        SourceError::OutOfRange { earliest: 0, latest: 3 }
    );
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_unknown_topic_is_named_and_may_come() {
    let source = RskafkaSource::new(connection(&[]), Budget::new(1 << 20));
    let topic = unique("missing");
    let error = source.fetch(&TopicPartition::new(topic.as_str(), 0), 0).await.expect_err("missing");
    assert!(matches!(error, SourceError::Transient { reason: "unknown_partition", .. }), "{error:?}");
    assert!(error.to_string().contains(&topic) && error.to_string().contains("CONNECT_KAFKA_TOPICS"), "{error}");
}

#[tokio::test]
async fn brokers_that_do_not_answer_are_named() {
    // A port that is free now, and closed.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let address = format!("127.0.0.1:{port}");
    let connection = connection_to(&address, &[]);
    let source = RskafkaSource::new(connection, Budget::new(1 << 20));
    let error = source.fetch(&TopicPartition::new("t", 0), 0).await.expect_err("nobody listens");
    assert!(matches!(error, SourceError::Transient { reason: "connection", .. }), "{error:?}");
    assert!(error.to_string().contains("CONNECT_KAFKA_BROKERS") && error.to_string().contains(&address), "{error}");
}

fn letter(partition: i32, value: Vec<u8>) -> DeadLetter {
    let record = Record {
        topic: "orders".into(),
        partition,
        offset: 41,
        timestamp: Utc::now().timestamp_millis(),
        key: Some("key".into()),
        value: Some(value.into()),
        headers: vec![Header { key: "trace".into(), value: Some("abc".into()) }],
    };
    DeadLetter { record, rejection: Rejection::new("no field user in the value") }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_dead_letter_is_the_record_and_what_was_wrong() {
    let connection = connection(&[]);
    let topic = unique("dead");
    let letters = KafkaDeadLetterTopic::new(Arc::clone(&connection), "sessions", topic.as_str(), Some(2), Some(1));
    let written = letter(3, b"bad".to_vec());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while let Err(error) = letters.write(std::slice::from_ref(&written)).await {
        assert!(matches!(error, DeadLetterError::Transient(_)), "{error}");
        assert!(tokio::time::Instant::now() < deadline, "{error}");
    }

    let source = RskafkaSource::new(connection, Budget::new(1 << 20));
    let fetched = fetch(&source, &TopicPartition::new(topic.as_str(), 1), 0).await;
    let record = &fetched.records[0];
    assert_eq!(
        (&record.key, &record.value, record.timestamp),
        (&written.record.key, &written.record.value, written.record.timestamp)
    );
    for (name, value) in [
        ("trace", "abc"),
        ("__connect.errors.topic", "orders"),
        ("__connect.errors.partition", "3"),
        ("__connect.errors.offset", "41"),
        ("__connect.errors.connector.name", "sessions"),
        ("__connect.errors.exception.message", "no field user in the value"),
    ] {
        assert_eq!(record.header(name).map(|found| &found[..]), Some(value.as_bytes()), "{name}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_dead_letter_that_does_not_fit_is_refused_by_name() {
    let connection = connection(&[]);
    let topic = unique("dead");
    create(&connection, &topic, 1).await;
    let letters = KafkaDeadLetterTopic::new(connection, "sessions", topic.as_str(), None, None);
    letters.write(&[letter(0, vec![0; 300 << 10]), letter(0, vec![0; 300 << 10])]).await.expect("two requests");
    let error = letters.write(&[letter(0, vec![0; 17 << 20])]).await.expect_err("too large");
    assert!(matches!(error, DeadLetterError::Refused(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&topic) && text.contains("orders-0@41") && text.contains("max.message.bytes"), "{text}");
}
