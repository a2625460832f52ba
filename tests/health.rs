//! Health tells the truth: of a process too many, of a store that hangs, of a drain; and a restart moves nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use connect_core::TopicPartition;
use connect_testkit::scrape::Metrics;
use system_tests::{Scene, exit_code, metrics_until, record, until};
use tokio::time::sleep;
use xtask::deploy::observation::asked_for;
use xtask::process::Signal;

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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_process_that_drains_is_alive_and_not_ready() -> Result<()> {
    let mut scene = Scene::new(BINARY, "draining", 1).await?;
    scene.produce([(0, record(Some(b"a"), Some(b"1")))]).await?;
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "the first is written", |metrics| metrics.written() == 1).await?;
    assert_eq!(connector.status("/readyz").await?, 200);
    scene.redis.pause()?;
    scene.produce([(0, record(Some(b"b"), Some(b"2")))]).await?;
    metrics_until(&mut connector, "the second is in hand", |metrics| metrics.read() == 2).await?;
    connector.process().signal(Signal::TERM)?;
    // It can't end while the store hangs, so this is seen before it does.
    until("it is no longer ready", async || connector.status("/readyz").await.is_ok_and(|status| status == 503))
        .await?;
    assert_eq!(connector.status("/livez").await?, 200);
    scene.redis.resume()?;
    assert_eq!(exit_code(&mut connector).await?, 0, "{}", scene.logged());
    Ok(())
}

/// The partitions of which this process has read records.
fn has_read(metrics: &Metrics) -> BTreeSet<TopicPartition> {
    let accounts = metrics.accounts().into_iter();
    accounts.filter(|(_, account)| account.read > 0).map(|(partition, _)| partition).collect()
}

/// A member is away for longer than another one's heartbeats are apart (5 s, which the broker decides): what the group moved
/// meanwhile, the other knows.
const AWAY: Duration = Duration::from_secs(12);

/// What a StatefulSet does: one pod after the other goes, and one of the same name comes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_rolling_restart_of_named_members_moves_no_partition() -> Result<()> {
    let a_record_for_each = || (0..4).map(|partition| (partition, record(Some(b"key"), Some(b"value"))));
    let names = ["sink-0", "sink-1"];
    let scene = Scene::new(BINARY, "rolling", 4).await?.set("CONNECT_KAFKA_ASSIGNMENT", "group");
    let start = |name| scene.connector_named(name, &[("CONNECT_KAFKA_INSTANCE_ID", name)]);
    let assigned = |name| scene.log_of(name).matches("partition assigned").count();
    let mut members = [start(names[0])?, start(names[1])?];
    for member in &mut members {
        metrics_until(member, "each has half", |metrics| partitions(metrics) == 2).await?;
    }
    scene.produce(a_record_for_each()).await?;
    let mut own = Vec::new();
    for member in &mut members {
        own.push(has_read(&metrics_until(member, "half are read", |metrics| metrics.written() == 2).await?));
    }
    for (goes, stays) in [(1, 0), (0, 1)] {
        let before = assigned(names[stays]);
        let written = metrics_until(&mut members[stays], "it answers", |_| true).await?.written();
        members[goes].drain().await?;
        // Had the partitions moved to the one that stays, these would be read there.
        scene.produce(a_record_for_each()).await?;
        let back = Instant::now() + AWAY;
        while Instant::now() < back {
            let metrics = metrics_until(&mut members[stays], "it answers", |_| true).await?;
            assert_eq!(has_read(&metrics), own[stays], "while {} is away", names[goes]);
            sleep(Duration::from_millis(100)).await;
        }
        members[goes] = start(names[goes])?;
        let metrics = metrics_until(&mut members[goes], "its own are read", |metrics| metrics.written() == 2).await?;
        assert_eq!(has_read(&metrics), own[goes]);
        let all = |metrics: &Metrics| metrics.written() == written + 2;
        let metrics = metrics_until(&mut members[stays], "its own are read", all).await?;
        assert_eq!(has_read(&metrics), own[stays]);
        assert_eq!(assigned(names[stays]), before, "{} was given something", names[stays]);
    }
    for member in &mut members {
        member.drain().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn every_metric_of_the_alerts_and_the_dashboard_is_there_from_the_first_record_on_with_its_labels() -> Result<()>
{
    let scene = Scene::new(BINARY, "observed", 1).await?;
    scene.produce([(0, record(Some(b"a"), Some(b"1")))]).await?;
    let mut connector = scene.connector()?;
    let metrics = metrics_until(&mut connector, "the record is written", |metrics| metrics.written() == 1).await?;
    let mut missing = Vec::new();
    for (name, labels) in asked_for()? {
        if !metrics.has(&name) {
            missing.push(name.clone());
        }
        for (label, value) in labels {
            let values = metrics.label_values(&name, &label);
            if value.as_ref().map_or(values.is_empty(), |value| !values.contains(value.as_str())) {
                missing.push(format!("{name}{{{label}={value:?}}}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "an alert on what appears with the first trouble would miss it");
    connector.drain().await?;
    Ok(())
}
