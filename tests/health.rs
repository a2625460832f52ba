//! Health tells the truth: of a process too many, and of a store that hangs.

use anyhow::Result;
use connect_testkit::scrape::Metrics;
use system_tests::{Scene, metrics_until, record, until};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");

fn partitions(metrics: &Metrics) -> u64 {
    metrics.sum("connect_partitions", &[]) as u64
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_process_more_than_there_are_partitions_is_ready_too() -> Result<()> {
    let scene = Scene::new(BINARY, "spare", 1).await?.set("CONNECT_KAFKA_ASSIGNMENT", "group");
    let mut first = scene.connector()?;
    metrics_until(&mut first, "the first has the partition", |metrics| partitions(metrics) == 1).await?;
    let mut second = scene.connector()?;
    until("the second is ready", async || second.status("/readyz").await.is_ok_and(|status| status == 200)).await?;
    let first_has = partitions(&metrics_until(&mut first, "the first answers", |_| true).await?);
    let second_has = partitions(&metrics_until(&mut second, "the second answers", |_| true).await?);
    assert_eq!((first_has, second_has), (1, 0), "the only partition stays where it is: {}", scene.logged());
    second.finish().await?;
    first.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_store_that_hangs_shows_as_a_stall_and_makes_no_process_restart() -> Result<()> {
    let stalled = |metrics: &Metrics| metrics.sum("connect_stalled_seconds", &[]);
    let mut scene = Scene::new(BINARY, "stall", 1).await?;
    scene.produce([(0, record(Some(b"a"), Some(b"1")))]).await?;
    let mut connector = scene.connector()?;
    let metrics = metrics_until(&mut connector, "the first is written", |metrics| metrics.written() == 1).await?;
    assert_eq!(stalled(&metrics), 0.0, "nothing waits");
    scene.redis.pause()?;
    scene.produce([(0, record(Some(b"b"), Some(b"2")))]).await?;
    metrics_until(&mut connector, "the stall shows", |metrics| stalled(metrics) > 2.0).await?;
    assert_eq!(connector.status("/livez").await?, 200);
    assert_eq!(connector.status("/readyz").await?, 200);
    scene.redis.resume()?;
    let moves = |metrics: &Metrics| metrics.lag() == 0 && stalled(metrics) == 0.0;
    metrics_until(&mut connector, "it moves again", moves).await?;
    connector.finish().await?;
    Ok(())
}
