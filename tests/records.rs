//! Records that are awkward, and those that can't be written.

use anyhow::Result;
use bytes::Bytes;
use fred::interfaces::KeysInterface;
use rskafka::client::partition::UnknownTopicHandling;
use system_tests::{Scene, assert_account_adds_up, exit_code, metrics_until, outcome, record, until};
use xtask::kafka_client::connect;

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn sizes_from_nothing_to_8_mib_and_bytes_that_are_no_text_arrive_as_they_are() -> Result<()> {
    let scene = Scene::new(BINARY, "sizes", 1).await?;
    let mega = vec![b'x'; 1 << 20];
    let eight = vec![b'y'; 8 << 20];
    let odd: &[u8] = &[0xff, 0, 0xc3, 0x28, b'\r', b'\n'];
    let cases: [(&[u8], &[u8]); 4] = [(b"empty", b""), (b"mega", &mega), (b"eight", &eight), (odd, odd)];
    for (key, value) in cases {
        scene.produce([(0, record(Some(key), Some(value)))]).await?;
    }
    let mut connector = scene.connector()?;
    let metrics = metrics_until(&mut connector, "all written", |m| m.written() == 4).await?;
    assert_account_adds_up(&metrics);
    let store = scene.store().await?;
    for (key, value) in cases {
        let found: Option<Bytes> = store.get(key).await?;
        assert_eq!(found.as_deref(), Some(value), "{}", String::from_utf8_lossy(key));
    }
    connector.finish().await?;
    Ok(())
}

/// A good record, one without the key that the template needs, and a good one.
async fn with_a_null_key(test: &str) -> Result<Scene> {
    let scene = Scene::new(BINARY, test, 1).await?.set("CONNECT_REDIS_KEY", "session:{key}");
    let records = [(Some("a"), "1"), (None, "no-key"), (Some("b"), "2")];
    scene.produce(records.map(|(key, value)| (0, record(key.map(str::as_bytes), Some(value.as_bytes()))))).await?;
    Ok(scene)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_record_that_cannot_be_written_stops_its_partition_by_default() -> Result<()> {
    let scene = with_a_null_key("stop").await?;
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "what lies before it is written", |m| m.written() == 1).await?;
    until("the record is named", async || scene.logged().contains("offset=1")).await?;
    let log = scene.logged();
    assert!(log.contains("CONNECT_DEAD_LETTERS") && log.contains("key"), "{log}");
    assert!(!log.contains("no-key"), "a record's content is in the log: {log}");
    let metrics =
        metrics_until(&mut connector, "the stall shows", |m| m.sum("connect_stalled_seconds", &[]) > 1.0).await?;
    assert_eq!(metrics.written(), 1);
    let second: Option<Bytes> = scene.store().await?.get("session:b").await?;
    assert_eq!(second, None, "nothing passes the record");
    connector.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_record_that_cannot_be_written_is_dropped_and_counted_when_chosen() -> Result<()> {
    let scene = with_a_null_key("drop").await?.set("CONNECT_DEAD_LETTERS", "drop");
    let mut connector = scene.connector()?;
    let metrics = metrics_until(&mut connector, "both are written", |m| m.written() == 2).await?;
    assert_eq!(outcome(&metrics, "dropped"), 1);
    assert_account_adds_up(&metrics);
    connector.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_record_that_cannot_be_written_goes_to_the_dead_letter_topic_as_it_was() -> Result<()> {
    let scene = with_a_null_key("letters").await?;
    let letters = format!("{}-dead", scene.topic);
    let scene = scene.set("CONNECT_DEAD_LETTERS", &format!("topic:{letters}"));
    let mut connector = scene.connector()?;
    let metrics = metrics_until(&mut connector, "both are written", |m| m.written() == 2).await?;
    assert_eq!(outcome(&metrics, "dead_lettered"), 1);
    assert_account_adds_up(&metrics);
    connector.finish().await?;

    let client = connect(&scene.kafka).await?;
    let partition = client.partition_client(&letters, 0, UnknownTopicHandling::Error).await?;
    let (found, _) = partition.fetch_records(0, 1..1_000_000, 1_000).await?;
    assert_eq!(found.len(), 1);
    let letter = &found[0].record;
    assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (None, Some(&b"no-key"[..])));
    let header = |name: &str| String::from_utf8_lossy(&letter.headers[name]).into_owned();
    assert_eq!(header("__connect.errors.topic"), scene.topic);
    assert_eq!(header("__connect.errors.partition"), "0");
    assert_eq!(header("__connect.errors.offset"), "1");
    assert_eq!(header("__connect.errors.connector.name"), scene.topic);
    assert!(header("__connect.errors.exception.message").contains("key"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_subscription_to_its_own_dead_letters_is_refused() -> Result<()> {
    let scene = Scene::new(BINARY, "loop", 1).await?;
    let topic = format!("topic:{}", scene.topic);
    let scene = scene.set("CONNECT_DEAD_LETTERS", &topic);
    let mut connector = scene.connector()?;
    assert_eq!(exit_code(&mut connector).await?, 64);
    assert!(scene.logged().contains("CONNECT_DEAD_LETTERS"), "{}", scene.logged());
    Ok(())
}
