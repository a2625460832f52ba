//! Three brokers that are restarted, killed and frozen: leaders, the coordinator and the replica that is read move, and nothing
//! is lost or has its effect twice.

#[path = "torture/load.rs"]
mod load;
#[path = "torture/members.rs"]
#[allow(dead_code, reason = "the members are left alone here")]
mod members;
#[path = "torture/pauses.rs"]
#[allow(dead_code, reason = "the pauses are not told here")]
mod pauses;

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use connect_core::TopicPartition;
use connect_core::config::{KafkaConfig, Section};
use connect_core::kafka::wire::Cluster;
use connect_testkit::dice::Dice;
use load::{Contents, Load};
use members::Members;
use pauses::Pauses;
use system_tests::{Scene, assert_account_adds_up, metrics_until, numbered, report, seed, until};
use tokio::time::{Instant, sleep};
use xtask::effort::{full, share};
use xtask::services::{Kafka, KafkaOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
const PARTITIONS: usize = 6;

/// What happens to a broker.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Restart,
    Kill,
    Freeze,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn three_brokers_are_restarted_and_killed_and_each_effect_is_there_once_nightly() -> Result<()> {
    let seed = seed();
    let dice = Dice::new(seed);
    let mut brokers = Kafka::cluster(KafkaOptions::default()).await?;
    let scene = Scene::on(BINARY, brokers[0].bootstrap(), "brokers", PARTITIONS as i32)
        .await?
        .set("CONNECT_KAFKA_ASSIGNMENT", "group")
        .set("CONNECT_REDIS_COMMAND", "rpush");
    let load = Load::start(&scene, PARTITIONS, share(300_000));
    let pauses = Pauses::watch(scene.store().await?, &scene.topic, PARTITIONS);
    let mut members = Members::new(&scene, PARTITIONS);
    members.join()?;
    members.join()?;
    members.settled(&pauses).await?;

    // One after the other: whoever leads a partition or the group is among them.
    let mut faults: Vec<(Fault, usize)> = (0..3).map(|broker| (Fault::Restart, broker)).collect();
    if full() {
        faults.extend((0..3).map(|broker| (Fault::Kill, broker)));
        faults.extend((0..3).map(|broker| (Fault::Freeze, broker)));
    } else {
        faults.push((Fault::Kill, dice.below(3) as usize));
    }
    for (fault, broker) in faults {
        let begun = Instant::now();
        let broker = &mut brokers[broker];
        match fault {
            Fault::Restart => {
                broker.shutdown().await?;
                broker.start_again().await?;
            }
            Fault::Kill => {
                broker.stop();
                // Up to longer than the controller takes to find another leader.
                sleep(dice.even_time(Duration::from_secs(15))).await;
                broker.start_again().await?;
            }
            Fault::Freeze => {
                broker.pause()?;
                // Longer than the controller takes to find another leader.
                sleep(Duration::from_secs(20)).await;
                broker.resume()?;
            }
        }
        until("the broker has caught up", async || broker.is_replicated().await.is_ok_and(|all| all)).await?;
        members.settled(&pauses).await.with_context(|| format!("after {fault:?}; seed {seed}"))?;
        report(&format!("{fault:?}: all goes on after {:.1} s", begun.elapsed().as_secs_f64()));
    }

    load.finish().await.with_context(|| format!("the records could not be sent; seed {seed}"))?;
    let contents = Contents::read(&scene, PARTITIONS).await?;
    members.all_is_written(contents.records).await?;
    members.leave_all().await?;
    contents.check(&scene.store().await?).await.with_context(|| format!("{}; seed {seed}", scene.logs()))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_replica_in_our_rack_is_read_and_the_leader_when_it_fails_nightly() -> Result<()> {
    let selector = "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector".to_owned();
    let options = KafkaOptions { properties: vec![selector], ..KafkaOptions::default() };
    let mut brokers = Kafka::cluster(options).await?;
    let scene = Scene::on(BINARY, brokers[0].bootstrap(), "nearby", 1).await?;
    let leader = leader(&scene).await?;
    let nearby = if leader == 3 { 1 } else { leader + 1 };
    let scene =
        scene.set("CONNECT_KAFKA_RACK", &format!("rack-{nearby}")).set("CONNECT_LOG", "info,connect_core::kafka=debug");
    let mut connector = scene.connector()?;
    let reads = || {
        scene
            .logged()
            .matches(&format!("reading from a replica nearby partition={}-0 node={nearby}", scene.topic))
            .count()
    };
    let mut written = 0;
    let mut goes_on = async |what: &str| -> Result<()> {
        let begun = Instant::now();
        scene.produce(numbered(written..written + 1_000, 1)).await?;
        written += 1_000;
        let all = |metrics: &connect_testkit::scrape::Metrics| metrics.written() == written as u64;
        let metrics = metrics_until(&mut connector, what, all).await.with_context(|| scene.logs())?;
        assert_account_adds_up(&metrics);
        report(&format!("{what} after {:.1} s", begun.elapsed().as_secs_f64()));
        Ok(())
    };
    goes_on("records are read from the replica").await?;
    // The leader was asked once, and named the replica.
    assert_eq!(reads(), 1, "{}", scene.logs());
    let broker = &mut brokers[nearby - 1];
    broker.stop();
    goes_on("the replica is killed, and the leader read").await?;
    broker.start_again().await?;
    until("the replica is read again", async || reads() == 2).await.with_context(|| scene.logs())?;
    goes_on("records are read from the replica again").await?;
    connector.drain().await.map(drop)
}

/// The node that leads the scene's only partition.
async fn leader(scene: &Scene) -> Result<usize> {
    let config =
        KafkaConfig::from_pairs(&[("CONNECT_KAFKA_BROKERS", &scene.kafka), ("CONNECT_KAFKA_TOPICS", &scene.topic)]);
    let cluster = Cluster::new(config.map_err(|problems| anyhow!("{problems}"))?);
    let partition = TopicPartition::new(scene.topic.as_str(), 0);
    let mut leader = None;
    until("the partition has a leader", async || {
        leader = cluster.leader(&partition).await.ok();
        leader.is_some()
    })
    .await?;
    leader.map(|leader| leader.node as usize).context("no leader")
}
