//! A group whose members join, leave, are killed and are stopped at random: nothing is lost, nothing has its effect twice, and
//! each key keeps its order.

mod torture {
    pub mod eager;
    pub mod load;
    pub mod members;
    pub mod pauses;
}

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use connect_testkit::dice::Dice;
use system_tests::{Scene, report, seed};
use tokio::time::{Instant, sleep};
use torture::load::{Contents, Load};
use torture::members::{Event, Members};
use torture::pauses::{Pauses, Report};
use xtask::effort::share;
use xtask::services::kafka::VERSION_VARIABLE;
use xtask::services::{Kafka, KafkaOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
const PARTITIONS: usize = 12;

/// So short that many sessions end within a test.
const SESSION: Duration = Duration::from_secs(3);

/// Lets sessions be that short. Brokers that know no consumer protocol pass over what is said of it.
const SHORT_SESSIONS: [&str; 5] = [
    "group.min.session.timeout.ms=1000",
    "group.consumer.min.session.timeout.ms=1000",
    "group.consumer.session.timeout.ms=3000",
    "group.consumer.min.heartbeat.interval.ms=100",
    "group.consumer.heartbeat.interval.ms=500",
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_classic_group_under_torture_has_each_effect_once_and_in_order() -> Result<()> {
    torture("classic").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_group_of_the_consumer_protocol_under_torture_has_each_effect_once_and_in_order() -> Result<()> {
    if std::env::var(VERSION_VARIABLE).is_ok_and(|version| version.starts_with("3.")) {
        report("Kafka 3 does not offer the consumer protocol: nothing to torture");
        return Ok(());
    }
    torture("consumer").await
}

/// For the report only: what the same events cost consumers that give up everything at each rebalance.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn an_eager_group_for_comparison_nightly() -> Result<()> {
    let kafka = broker().await?;
    let scene = Scene::on(BINARY, kafka.bootstrap(), "eager", PARTITIONS as i32).await?;
    let load = Load::start(&scene, PARTITIONS, 0);
    let told = torture::eager::pauses(&kafka, &scene.topic, PARTITIONS).await?;
    load.finish().await?;
    report(&format!("Java's console consumers with the range assignor, which write nothing anywhere\n{told}"));
    Ok(())
}

async fn broker() -> Result<Kafka> {
    let properties = SHORT_SESSIONS.map(str::to_owned).to_vec();
    Kafka::start(KafkaOptions { properties, ..KafkaOptions::default() }).await
}

async fn torture(protocol: &str) -> Result<()> {
    let (events, records) = (share(30) as usize, share(500_000));
    let seed = seed();
    let dice = Dice::new(seed);
    let kafka = broker().await?;
    let scene = Scene::on(BINARY, kafka.bootstrap(), protocol, PARTITIONS as i32)
        .await?
        .set("CONNECT_KAFKA_ASSIGNMENT", "group")
        .set("CONNECT_KAFKA_GROUP_PROTOCOL", protocol)
        .set("CONNECT_KAFKA_SESSION_TIMEOUT", "3s")
        .set("CONNECT_KAFKA_REBALANCE_TIMEOUT", "10s")
        .set("CONNECT_REDIS_COMMAND", "rpush")
        // Small batches and a bound on the pace: there is always something in hand when a member is struck.
        .set("CONNECT_BATCH_RECORDS", "25")
        .set("CONNECT_RATE", "3000");

    let load = Load::start(&scene, PARTITIONS, records);
    let pauses = Pauses::watch(scene.store().await?, &scene.topic, PARTITIONS);
    let mut members = Members::new(&scene, PARTITIONS);
    for _ in 0..3 {
        members.join()?;
    }
    let mut owners = Some(members.settled(&pauses).await?);
    let mut told = Report::default();
    let calm = Instant::now();
    sleep(SESSION).await;
    for pause in pauses.longest_since(calm) {
        told.add("nothing happens", pause);
    }

    for (number, event) in Event::deck(&dice, events).into_iter().enumerate() {
        let begun = Instant::now();
        members
            .strike(event, &dice, SESSION)
            .await
            .with_context(|| format!("event {number}, {event:?}; seed {seed}"))?;
        // Some strike while the group is still busy with the one before.
        if dice.percent(30) {
            sleep(dice.even_time(SESSION)).await;
            owners = None;
            continue;
        }
        let now =
            members.settled(&pauses).await.with_context(|| format!("after event {number}, {event:?}; seed {seed}"))?;
        if let Some(before) = owners.replace(now.clone()) {
            told.add_event(event, &pauses, begun, &before, &now);
        }
        sleep(dice.time(Duration::from_secs(1))).await;
    }

    load.finish().await?;
    let contents = Contents::read(&scene, PARTITIONS).await?;
    members.all_is_written(contents.records).await?;
    members.leave_all().await?;
    contents.check(&scene.store().await?).await.with_context(|| format!("{}; seed {seed}", scene.logs()))?;
    let records = contents.records;
    let struck = members.struck;
    ensure!(struck.at_work > 0, "no member was struck at work: {struck:?}; seed {seed}");
    report(&format!(
        "{protocol}: {events} events, {records} records, each effect once and in order; {struck:?}\n{told}"
    ));
    Ok(())
}
