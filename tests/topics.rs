//! Which topics are read while the connector runs: new ones, grown ones, deleted ones, and those that never are.

use anyhow::Result;
use connect_testkit::scrape::Metrics;
use system_tests::{Scene, assert_account_adds_up, metrics_until, outcome, record};
use xtask::kafka_client::{Producer, connect, create_topic};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");

async fn produce(scene: &Scene, topic: &str, key: &str, value: Option<&[u8]>) -> Result<()> {
    let mut producer = Producer::new(&connect(&scene.kafka).await?, topic, 1).await?;
    producer.send(0, record(Some(key.as_bytes()), value)).await?;
    producer.finish().await
}

async fn topics_come_and_go(scene: Scene) -> Result<()> {
    let prefix = scene.topic.clone();
    let [first, second, third, dead] = ["first", "second", "third", "dead"].map(|name| format!("{prefix}-{name}"));
    let scene = scene
        .set("CONNECT_KAFKA_TOPICS", &format!("^({prefix}-|__)"))
        .set("CONNECT_KAFKA_TOPICS_REFRESH", "1s")
        .set("CONNECT_TOMBSTONES", "reject")
        .set("CONNECT_DEAD_LETTERS", &format!("topic:{dead}"));
    let client = connect(&scene.kafka).await?;
    create_topic(&client, &first, 1).await?;
    create_topic(&client, &second, 1).await?;
    produce(&scene, &first, "a", Some(b"1")).await?;
    produce(&scene, &second, "b", Some(b"2")).await?;
    produce(&scene, &second, "b", None).await?;
    let mut connector = scene.connector()?;
    let both = |m: &Metrics| m.written() == 2 && outcome(m, "dead_lettered") == 1;
    metrics_until(&mut connector, "both are read", both).await?;

    create_topic(&client, &third, 1).await?;
    produce(&scene, &third, "c", Some(b"3")).await?;
    metrics_until(&mut connector, "the new one is read", |m| m.written() == 3).await?;

    client.controller_client()?.delete_topic(&first, 10_000).await?;
    let two = |m: &Metrics| m.sum("connect_partitions", &[]) == 2.0;
    metrics_until(&mut connector, "the deleted one is given up", two).await?;
    produce(&scene, &second, "d", Some(b"4")).await?;
    produce(&scene, &third, "e", Some(b"5")).await?;
    let metrics = metrics_until(&mut connector, "the rest goes on", |m| m.written() == 5).await?;
    assert_account_adds_up(&metrics);
    for never in [&dead, "__consumer_offsets"] {
        assert_eq!(metrics.sum("connect_records_read_total", &[("topic", never)]), 0.0, "{never}");
    }
    assert_eq!(metrics.read(), 6, "no dead letter comes back");
    connector.drain().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn topics_of_a_pattern_come_and_go_in_a_group() -> Result<()> {
    topics_come_and_go(Scene::new(BINARY, "topics", 0).await?.set("CONNECT_KAFKA_ASSIGNMENT", "group")).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn topics_of_a_pattern_come_and_go_without_a_group() -> Result<()> {
    topics_come_and_go(Scene::new(BINARY, "topics-static", 0).await?).await
}
