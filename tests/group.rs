//! A member of a group beside a store that hangs, and one that stood still for too long.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use connect_testkit::proxy::{Fault, Proxy};
use connect_testkit::scrape::Metrics;
use fred::interfaces::ListInterface;
use system_tests::{Scene, metrics_until, record, until};
use xtask::connector::Connector;

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
const PARTITIONS: usize = 2;

/// The classic protocol, because there the member chooses its session; 6 s is the least that brokers allow.
async fn scene(test: &str) -> Result<Scene> {
    Ok(Scene::new(BINARY, test, PARTITIONS as i32)
        .await?
        .set("CONNECT_KAFKA_ASSIGNMENT", "group")
        .set("CONNECT_KAFKA_GROUP_PROTOCOL", "classic")
        .set("CONNECT_KAFKA_SESSION_TIMEOUT", "6s")
        .set("CONNECT_KAFKA_REBALANCE_TIMEOUT", "5s")
        .set("CONNECT_REDIS_COMMAND", "rpush"))
}

/// The same values in order for each partition's only key.
async fn produce(scene: &Scene, values: std::ops::Range<u32>) -> Result<()> {
    let all = values.flat_map(|value| (0..PARTITIONS).map(move |partition| (partition, value)));
    let one = |(partition, value): (usize, u32)| {
        (partition, record(Some(format!("key-{partition}").as_bytes()), Some(value.to_string().as_bytes())))
    };
    scene.produce(all.map(one).collect::<Vec<_>>()).await
}

/// Waits until the lists hold exactly these values.
async fn until_exactly(scene: &Scene, values: u32) -> Result<()> {
    let store = scene.store().await?;
    let expected: Vec<u32> = (0..values).collect();
    for partition in 0..PARTITIONS {
        let list = async || store.lrange::<Vec<u32>, _>(format!("key-{partition}"), 0, -1).await.unwrap_or_default();
        until("all values are there", async || list().await.len() as u32 >= values).await?;
        assert_eq!(list().await, expected, "key-{partition}; {}", scene.logs());
    }
    Ok(())
}

fn partitions(metrics: &Metrics) -> usize {
    // Positions are shown of what is ours, nothing else.
    let shown = metrics.label_values("connect_stalled_seconds", "partition").len();
    shown.min(metrics.sum("connect_partitions", &[]) as usize)
}

async fn until_has(connector: &mut Connector, count: usize) -> Result<Metrics> {
    metrics_until(connector, &format!("it has {count} partitions"), |metrics| partitions(metrics) == count).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_write_that_hangs_for_longer_than_the_session_costs_no_membership() -> Result<()> {
    let mut scene = scene("slow-write").await?;
    produce(&scene, 0..1).await?;
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "the first are written", |metrics| metrics.written() == 2).await?;
    scene.redis.pause()?;
    produce(&scene, 1..2).await?;
    let stalled = |metrics: &Metrics| metrics.sum("connect_stalled_seconds", &[]);
    metrics_until(&mut connector, "both stall for longer than a session", |metrics| stalled(metrics) > 16.0).await?;
    scene.redis.resume()?;
    until_exactly(&scene, 2).await?;
    connector.finish().await?;
    let log = scene.logged();
    assert!(!log.contains("lost the membership"), "{log}");
    assert_eq!(log.matches("partition assigned").count(), PARTITIONS, "nothing was given away: {log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_store_that_is_down_holds_up_a_hand_over_for_a_while_and_commits_nothing() -> Result<()> {
    let scene = scene("hand-over").await?;
    produce(&scene, 0..1).await?;
    // Only the first member's way to the store is cut.
    let way = Proxy::start(SocketAddr::from(([127, 0, 0, 1], scene.redis.port()))).await?;
    let url = format!("redis://{}", way.address());
    let mut first = scene.connector_named("connector", &[("CONNECT_REDIS_URL", &url)])?;
    let committed = |metrics: &Metrics| metrics.sum("connect_committed_offset", &[]);
    metrics_until(&mut first, "the first are committed", |m| m.written() == 2 && committed(m) == 2.0).await?;
    way.set(Fault::BlackHole);
    produce(&scene, 1..2).await?;
    metrics_until(&mut first, "the second are in hand", |metrics| metrics.read() == 4).await?;
    let mut second = scene.connector_named("second", &[])?;
    // The rebalance's 5 s end before the drain's 25 s.
    until_has(&mut first, 1).await?;
    assert!(scene.logged().contains("not drained in time"), "{}", scene.logged());
    until_has(&mut second, 1).await?;
    way.set(Fault::None);
    until_exactly(&scene, 2).await?;
    let log = scene.log_of("second");
    let assigned = log.lines().find(|line| line.contains("partition assigned")).context("nothing was assigned")?;
    assert!(assigned.contains("Some(1)"), "committed is what was written before: {assigned}");
    first.finish().await?;
    second.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_member_that_stood_still_for_too_long_learns_so_and_writes_nothing_twice() -> Result<()> {
    const VALUES: u32 = 2_000;
    // So slow that records are in hand when it is stopped.
    let scene = scene("stood-still").await?.set("CONNECT_RATE", "100").set("CONNECT_BATCH_RECORDS", "20");
    let mut first = scene.connector()?;
    let mut second = scene.connector_named("second", &[])?;
    until_has(&mut first, 1).await?;
    until_has(&mut second, 1).await?;
    produce(&scene, 0..VALUES).await?;
    metrics_until(&mut first, "it is at work", |metrics| metrics.written() > 0).await?;
    first.process().pause()?;
    until_has(&mut second, 2).await?;
    first.process().resume()?;
    until("it learns so", async || scene.logged().contains("lost the membership")).await?;
    until_has(&mut first, 1).await?;
    until_has(&mut second, 1).await?;
    until_exactly(&scene, VALUES).await?;
    for connector in [&mut first, &mut second] {
        connector.finish().await?;
    }
    Ok(())
}
