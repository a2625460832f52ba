//! The complete reader against a real broker, and what the simple one cannot read beside it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use connect_core::kafka::{Connection, KafkaSource, RskafkaSource};
use connect_core::{Budget, Fetched, Header, Position, Record, Source, SourceError, TopicPartition};
use support::{Producer, cluster, config, create_topic, draft, eventually, produce, unique};

fn source(pairs: &[(&str, &str)]) -> KafkaSource {
    KafkaSource::new(cluster(pairs), Budget::new(24 << 20))
}

fn rskafka(pairs: &[(&str, &str)]) -> RskafkaSource {
    RskafkaSource::new(Connection::new(config(pairs)), Budget::new(24 << 20))
}

async fn topic(name: &str, settings: &[(&str, &str)]) -> TopicPartition {
    let topic = unique(name);
    create_topic(&cluster(&[]), &topic, 1, settings).await;
    TopicPartition::new(topic.as_str(), 0)
}

/// Reads on until the position is reached.
async fn read_to(source: &impl Source, partition: &TopicPartition, mut offset: i64, end: i64) -> Vec<Record> {
    let mut records = Vec::new();
    let mut fetches = 0;
    while offset < end {
        fetches += 1;
        assert!(fetches < 1000, "no progress at {offset} of {end}");
        match source.fetch(partition, offset).await {
            Ok(fetched) => {
                assert!(fetched.next >= offset, "never backwards");
                offset = fetched.next;
                records.extend(fetched.records);
            }
            // The leader of a topic just made may not know yet that it leads.
            Err(SourceError::Transient { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{partition}@{offset}: {error}"),
        }
    }
    assert_eq!(offset, end);
    records
}

fn values(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| String::from_utf8_lossy(record.value.as_deref().unwrap_or(b"null")).into_owned();
    records.iter().map(text).collect()
}

/// What the simple reader says when it cannot go on.
async fn refusal(partition: &TopicPartition, offset: i64) -> SourceError {
    refusal_of(&rskafka(&[]), partition, offset).await
}

async fn refusal_of(source: &RskafkaSource, partition: &TopicPartition, mut offset: i64) -> SourceError {
    for _ in 0..100 {
        match source.fetch(partition, offset).await {
            Ok(fetched) => offset = fetched.next,
            Err(error) => return error,
        }
    }
    panic!("the simple reader went on to {offset}");
}

fn assert_names_the_other_reader(error: &SourceError, partition: &TopicPartition) {
    let text = error.to_string();
    assert!(matches!(error, SourceError::Fatal(_)), "{error:?}");
    assert!(text.contains(&partition.to_string()) && text.contains("CONNECT_KAFKA_READER=kafka"), "{text}");
}

fn kafka_is_3() -> bool {
    std::env::var("SYSTEM_TEST_KAFKA_VERSION").is_ok_and(|version| version.starts_with("3."))
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn every_codec_is_read() {
    let source = source(&[]);
    for codec in ["uncompressed", "gzip", "snappy", "lz4", "zstd"] {
        let partition = topic("codec", &[("compression.type", codec)]).await;
        let drafts: Vec<_> =
            (0..500).map(|number| draft(Some("key"), Some(&format!("value {number} {}", "x".repeat(200))))).collect();
        produce(&cluster(&[]), &partition, &drafts).await;
        let records = read_to(&source, &partition, 0, 500).await;
        assert_eq!(records.len(), 500, "{codec}");
        assert!(records[499].value.as_ref().is_some_and(|value| value.starts_with(b"value 499 ")), "{codec}");
        assert_eq!(records[499].timestamp, drafts[499].timestamp);
        // Kafka 3 gives zstd only to who asks by a newer version than rskafka does.
        if codec == "zstd" && kafka_is_3() {
            assert_names_the_other_reader(&refusal(&partition, 0).await, &partition);
        } else {
            assert_eq!(values(&read_to(&rskafka(&[]), &partition, 0, 500).await), values(&records), "{codec}");
        }
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn headers_keep_their_order_their_repeats_and_their_nulls() {
    let partition = topic("headers", &[]).await;
    let header =
        |key: &'static str, value: Option<&'static str>| Header { key: key.into(), value: value.map(Into::into) };
    let mut with_headers = draft(None, Some("v"));
    with_headers.headers =
        vec![header("z", Some("0")), header("dup", Some("1")), header("null", None), header("dup", Some("2"))];
    produce(&cluster(&[]), &partition, std::slice::from_ref(&with_headers)).await;
    let records = read_to(&source(&[]), &partition, 0, 1).await;
    assert!(records[0].headers == with_headers.headers);
    assert_eq!(records[0].header("dup").map(|value| &value[..]), Some(&b"2"[..]));
    assert_names_the_other_reader(&refusal(&partition, 0).await, &partition);

    // Without the null the simple reader goes on, but it knows each header once, in the order of their names.
    with_headers.headers.retain(|header| header.value.is_some());
    produce(&cluster(&[]), &partition, std::slice::from_ref(&with_headers)).await;
    let records = read_to(&rskafka(&[]), &partition, 1, 2).await;
    assert!(records[0].headers == [header("dup", Some("2")), header("z", Some("0"))], "{:?}", records[0]);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn exactly_the_committed_records_arrive() {
    let cluster = cluster(&[]);
    let partition = topic("transactions", &[]).await;
    let mut producer = Producer::new(&cluster).await;
    for (name, committed) in [("first", true), ("aborted", false), ("second", true)] {
        producer.produce(&partition, &[draft(Some("k"), Some(name)), draft(Some("k"), Some(name))]).await;
        producer.end(committed).await;
    }
    let committed = source(&[]);
    assert_eq!(values(&read_to(&committed, &partition, 0, 9).await), ["first", "first", "second", "second"]);

    // An open transaction holds back what follows it, until it is decided.
    producer.produce(&partition, &[draft(None, Some("open"))]).await;
    produce(&cluster, &partition, &[draft(None, Some("plain"))]).await;
    let Fetched { records, next, last_stable_offset, high_watermark, .. } =
        committed.fetch(&partition, 9).await.expect("a fetch");
    assert_eq!((values(&records).len(), next, last_stable_offset, high_watermark), (0, 9, 9, 11));
    assert_eq!(committed.offset(&partition, Position::Latest).await, Ok(9));
    producer.end(true).await;
    let records = eventually("the transaction is decided", async || {
        let fetched = committed.fetch(&partition, 9).await.expect("a fetch");
        (fetched.next > 9).then_some(fetched.records)
    })
    .await;
    assert_eq!(values(&records)[0], "open");
    assert_eq!(values(&read_to(&committed, &partition, 10, 12).await), ["plain"], "and the marker behind it");

    let uncommitted = source(&[("ISOLATION", "read_uncommitted")]);
    let all = read_to(&uncommitted, &partition, 0, 12).await;
    assert_eq!(values(&all), ["first", "first", "aborted", "aborted", "second", "second", "open", "plain"]);
    assert_names_the_other_reader(&refusal(&partition, 0).await, &partition);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_partition_that_ends_with_markers_is_read_to_its_end() {
    let cluster = cluster(&[]);
    let partition = topic("markers", &[]).await;
    let mut producer = Producer::new(&cluster).await;
    for _ in 0..3 {
        producer.produce(&partition, &[draft(None, Some("gone"))]).await;
        producer.end(false).await;
    }
    assert_eq!(read_to(&source(&[]), &partition, 0, 6).await.len(), 0);
    assert_names_the_other_reader(&refusal(&partition, 0).await, &partition);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn log_append_time_is_the_broker_s() {
    let partition = topic("append-time", &[("message.timestamp.type", "LogAppendTime")]).await;
    let mut old = draft(None, Some("v"));
    old.timestamp -= 86_400_000;
    produce(&cluster(&[]), &partition, std::slice::from_ref(&old)).await;
    let records = read_to(&source(&[]), &partition, 0, 1).await;
    assert!(records[0].timestamp > old.timestamp + 80_000_000, "{}", records[0].timestamp);
    let simply = read_to(&rskafka(&[]), &partition, 0, 1).await;
    assert_eq!(simply[0].timestamp, old.timestamp, "the simple reader takes the producer's");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn compacted_gaps_are_passed() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("max.compaction.lag.ms", "100"),
    ];
    let partition = topic("compacted", &settings).await;
    let cluster = cluster(&[]);
    let filler = "x".repeat(300);
    // The end of this batch is overwritten, so that it keeps its last offset and loses its last records.
    let mut batch: Vec<_> = (0..10).map(|number| draft(Some(&format!("kept{number}")), Some(&filler))).collect();
    batch.extend((0..10).map(|number| draft(Some(&format!("lost{number}")), Some(&filler))));
    produce(&cluster, &partition, &batch).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let newer: Vec<_> = (0..10).map(|number| draft(Some(&format!("lost{number}")), Some("newer"))).collect();
    produce(&cluster, &partition, &newer).await;

    // Small fetches: each ends within or right behind one batch.
    let source = source(&[("FETCH_BYTES", "1KiB")]);
    let mut rolled = 30;
    let records = eventually("the cleaner went over it", async || {
        // A new record makes the broker roll the segment, which the cleaner then takes.
        rolled = produce(&cluster, &partition, &[draft(Some("tick"), Some("t"))]).await + 1;
        let records = read_to(&source, &partition, 0, rolled).await;
        let lost = records.iter().filter(|record| (10..20).contains(&record.offset)).count();
        if lost == 0 {
            Some(records)
        } else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            None
        }
    })
    .await;
    assert_eq!(records.iter().filter(|record| record.offset < 10).count(), 10);
    assert_eq!(records.iter().filter(|record| (20..30).contains(&record.offset)).count(), 10);
    let fetched = source.fetch(&partition, 12).await.expect("a fetch within the gap");
    assert!(fetched.next > 12);
    // The end of a batch without records is not known to the simple reader, so that it stays in the gap.
    let simply = rskafka(&[("FETCH_BYTES", "1KiB")]);
    assert_names_the_other_reader(&refusal_of(&simply, &partition, 12).await, &partition);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn positions_are_found_and_out_of_range_says_what_there_is() {
    let partition = topic("positions", &[]).await;
    let mut drafts = [draft(None, Some("a")), draft(None, Some("b")), draft(None, Some("c"))];
    let start = drafts[0].timestamp;
    for (index, draft) in drafts.iter_mut().enumerate() {
        draft.timestamp = start + index as i64 * 10;
    }
    produce(&cluster(&[]), &partition, &drafts).await;
    let source = source(&[]);
    for (position, offset) in [
        (Position::Earliest, 0),
        (Position::Latest, 3),
        (Position::Timestamp(start + 5), 1),
        (Position::Timestamp(start + 60_000), 3),
    ] {
        assert_eq!(source.offset(&partition, position).await, Ok(offset), "{position:?}");
    }
    let error = source.fetch(&partition, 17).await.err();
    assert_eq!(error, Some(SourceError::OutOfRange { earliest: 0, latest: 3 }));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn many_partitions_wait_together_and_none_is_forgotten() {
    let cluster = cluster(&[]);
    let name = unique("many");
    create_topic(&cluster, &name, 50, &[]).await;
    let budget = Budget::new(24 << 20);
    let source = Arc::new(KafkaSource::new(Arc::clone(&cluster), Arc::clone(&budget)));
    let partitions: Vec<_> = (0..50).map(|number| TopicPartition::new(name.as_str(), number)).collect();
    let readers: Vec<_> = partitions
        .iter()
        .map(|partition| {
            let (source, partition) = (Arc::clone(&source), partition.clone());
            tokio::spawn(async move { read_to(&*source, &partition, 0, 20).await.len() })
        })
        .collect();
    for round in 0..20 {
        for partition in &partitions {
            produce(&cluster, partition, &[draft(None, Some(&round.to_string()))]).await;
        }
    }
    for reader in readers {
        assert_eq!(reader.await.expect("read"), 20);
    }
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_is_read_is_charged_and_a_full_budget_holds_reading_back() {
    let partition = topic("budget", &[("compression.type", "gzip")]).await;
    let cluster = cluster(&[]);
    let filler = "y".repeat(1000);
    for _ in 0..20 {
        let drafts: Vec<_> = (0..500).map(|_| draft(None, Some(&filler))).collect();
        produce(&cluster, &partition, &drafts).await;
    }
    let budget = Budget::new(8 << 20);
    let source = KafkaSource::new(cluster, Arc::clone(&budget));
    let mut held: Vec<Fetched> = Vec::new();
    let mut offset = 0;
    loop {
        let fetch = tokio::time::timeout(Duration::from_secs(2), source.fetch(&partition, offset));
        // The last one does not get room, and waits for as long as the others are held.
        let Ok(fetched) = fetch.await else { break };
        let fetched = fetched.expect("a fetch");
        assert!(fetched.next > offset && fetched.next < 10_000, "ten times the budget was read");
        offset = fetched.next;
        held.push(fetched);
    }
    let payload: usize = held.iter().flat_map(|fetched| &fetched.records).map(Record::bytes).sum();
    assert!(payload <= budget.used(), "{payload} bytes are held");
    held.clear();
    eventually("reading goes on", async || {
        source.fetch(&partition, offset).await.ok().filter(|fetched| fetched.next > offset)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_missing_topic_is_named_and_read_once_it_is_there() {
    let source = source(&[]);
    let name = unique("later");
    let partition = TopicPartition::new(name.as_str(), 0);
    let error = source.fetch(&partition, 0).await.map(drop).expect_err("missing");
    assert!(matches!(error, SourceError::Transient { reason: "unknown_partition", .. }), "{error:?}");
    assert!(error.to_string().contains(&name) && error.to_string().contains("CONNECT_KAFKA_TOPICS"), "{error}");
    let cluster = cluster(&[]);
    create_topic(&cluster, &name, 1, &[]).await;
    produce(&cluster, &partition, &[draft(None, Some("v"))]).await;
    eventually("it is read", async || source.fetch(&partition, 0).await.ok().filter(|fetched| fetched.next == 1)).await;
}
