//! A broker that is down, and a topic that is not there: both are waited for.

use std::time::Duration;

use anyhow::Result;
use system_tests::{Scene, assert_account_adds_up, metrics_until, numbered, until};
use xtask::kafka_client::{connect, create_topic};
use xtask::services::{Kafka, KafkaOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_topic_that_does_not_exist_is_named_and_waited_for() -> Result<()> {
    let scene = Scene::new(BINARY, "no-topic", 0).await?;
    let mut connector = scene.connector()?;
    until("the topic is named", async || {
        let log = scene.logged();
        log.contains(&scene.topic) && log.contains("CONNECT_KAFKA_TOPICS")
    })
    .await?;
    create_topic(&connect(&scene.kafka).await?, &scene.topic, 1).await?;
    metrics_until(&mut connector, "it is picked up", |m| m.sum("connect_partitions", &[]) == 1.0).await?;
    connector.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_broker_that_is_down_at_start_and_dies_mid_run_is_waited_for() -> Result<()> {
    let mut kafka = Kafka::start(KafkaOptions::default()).await?;
    let scene = Scene::on(BINARY, kafka.bootstrap(), "broker", 1).await?;
    scene.produce(numbered(0..100, 1)).await?;

    kafka.stop();
    let mut connector = scene.connector()?;
    until("it says what it waits for", async || scene.logged().contains("CONNECT_KAFKA_BROKERS")).await?;
    kafka.start_again().await?;
    metrics_until(&mut connector, "the first hundred", |m| m.written() == 100).await?;

    kafka.stop();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(connector.process().exited()?.is_none(), "it lives: {}", scene.logged());
    kafka.start_again().await?;
    scene.produce(numbered(100..200, 1)).await?;
    let metrics = metrics_until(&mut connector, "the second hundred", |m| m.written() == 200).await?;
    assert_account_adds_up(&metrics);
    connector.finish().await?;
    Ok(())
}
