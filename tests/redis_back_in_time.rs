//! The real binary on a Redis that went back in time: what was lost is written again, and nothing counts twice.

use anyhow::Result;
use fred::clients::Client;
use fred::cmd;
use fred::interfaces::ClientLike;
use rskafka::record::Record;
use system_tests::{Scene, assert_account_adds_up, metrics_until, record, until};
use xtask::connector::Connector;
use xtask::redis_client;
use xtask::services::{Redis, RedisOptions, shared};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
const PARTITIONS: usize = 2;
const KEYS: usize = 10;
/// Records of one step, in each partition.
const STEP: usize = 100;

/// A counter a key: it tells of each record that is lost or counts twice.
async fn counters(test: &str, options: RedisOptions) -> Result<Scene> {
    let redis = Redis::start(options).await?;
    let scene = Scene::with(BINARY, shared::kafka()?, redis, test, PARTITIONS as i32).await?;
    Ok(scene.set("CONNECT_REDIS_COMMAND", "incrby"))
}

fn step() -> impl Iterator<Item = (usize, Record)> {
    let keys = (0..STEP * PARTITIONS).map(|number| number % KEYS);
    keys.map(|key| (key % PARTITIONS, record(Some(format!("key-{key}").as_bytes()), Some(b"x"))))
}

/// Waits until each counter is what so many records of each partition make of it.
async fn until_counted(scene: &Scene, of_each_partition: usize) -> Result<()> {
    let store = scene.store().await?;
    let keys: Vec<String> = (0..KEYS).map(|key| format!("key-{key}")).collect();
    let expected = vec![Some((of_each_partition * PARTITIONS / KEYS).to_string().into_bytes().into()); KEYS];
    until(&format!("{of_each_partition} records of each partition"), async || {
        redis_client::values(&store, &keys).await.is_ok_and(|values| values == expected)
    })
    .await
}

/// Tells one server something.
async fn tell(store: &Client, command: &str) -> Result<String> {
    let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
    Ok(store.custom(cmd!(words[0].clone()), words[1..].to_vec()).await?)
}

/// That it said so, and that its account is right.
async fn assert_it_went_back(scene: &Scene, connector: &mut Connector) -> Result<()> {
    let back = |m: &connect_testkit::scrape::Metrics| m.sum("connect_rewinds_total", &[]) >= PARTITIONS as f64;
    let metrics = metrics_until(connector, "both partitions went back", |m| back(m) && m.lag() == 0).await?;
    assert_account_adds_up(&metrics);
    assert!(scene.logged().contains("the store went back: what it lost is written again"), "{}", scene.logged());
    connector.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn what_was_written_after_the_dump_that_was_restored_is_written_again() -> Result<()> {
    // Nothing but SAVE writes to the disk, so a start is a restore.
    let mut scene = counters("restored", RedisOptions { memory_only: true, ..RedisOptions::default() }).await?;
    let mut connector = scene.connector()?;
    scene.produce(step()).await?;
    until_counted(&scene, STEP).await?;
    tell(&scene.store().await?, "SAVE").await?;
    scene.produce(step()).await?;
    until_counted(&scene, 2 * STEP).await?;
    scene.redis.stop();
    scene.redis.start_again().await?;
    until_counted(&scene, STEP).await?;
    scene.produce(step()).await?;
    until_counted(&scene, 3 * STEP).await?;
    assert_it_went_back(&scene, &mut connector).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_master_that_was_demoted_and_lost_its_last_writes_gets_them_again() -> Result<()> {
    let scene = counters("demoted", RedisOptions::default()).await?;
    let arguments = ["--replicaof", "127.0.0.1", &scene.redis.port().to_string()].map(str::to_owned).to_vec();
    let other = Redis::start(RedisOptions { arguments, ..RedisOptions::default() }).await?;
    let (store, other_store) = (scene.store().await?, redis_client::connect(&other.url()).await?);
    let mut connector = scene.connector()?;
    scene.produce(step()).await?;
    until_counted(&scene, STEP).await?;
    until("the replica has it all", async || tell(&store, "WAIT 1 1000").await.is_ok_and(|said| said == "1")).await?;
    // It becomes the master without what comes now, and its former master follows it.
    tell(&other_store, "REPLICAOF NO ONE").await?;
    scene.produce(step()).await?;
    until_counted(&scene, 2 * STEP).await?;
    tell(&store, &format!("REPLICAOF 127.0.0.1 {}", other.port())).await?;
    until_counted(&scene, STEP).await?;
    scene.produce(step()).await?;
    let refused = |m: &connect_testkit::scrape::Metrics| {
        m.sum("connect_retries_total", &[("reason", "read_only")]) >= PARTITIONS as f64
    };
    metrics_until(&mut connector, "a replica takes no writes", refused).await?;
    tell(&store, "REPLICAOF NO ONE").await?;
    until_counted(&scene, 3 * STEP).await?;
    assert_it_went_back(&scene, &mut connector).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn an_empty_redis_is_built_anew_from_where_the_settings_say() -> Result<()> {
    for (start, left_out) in [("earliest", 0), ("offset:20", 20)] {
        let options = RedisOptions { memory_only: true, ..RedisOptions::default() };
        let mut scene = counters("emptied", options).await?.set("CONNECT_KAFKA_START", start);
        scene.produce(step()).await?;
        let mut connector = scene.connector()?;
        until_counted(&scene, STEP - left_out).await?;
        // It had no time to save anything.
        scene.redis.stop();
        scene.redis.start_again().await?;
        assert_eq!(redis_client::size(&scene.store().await?).await?, 0);
        scene.produce(step()).await?;
        until_counted(&scene, 2 * STEP - left_out).await?;
        assert_it_went_back(&scene, &mut connector).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn plain_sets_are_built_anew_in_a_redis_that_was_emptied() -> Result<()> {
    let options = RedisOptions { memory_only: true, ..RedisOptions::default() };
    let redis = Redis::start(options).await?;
    let mut scene = Scene::with(BINARY, shared::kafka()?, redis, "plain", PARTITIONS as i32).await?;
    let numbered = |from: usize| system_tests::numbered(from..from + STEP * PARTITIONS, PARTITIONS);
    scene.produce(numbered(0)).await?;
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "the first step", |m| m.written() == (STEP * PARTITIONS) as u64).await?;
    let store = scene.store().await?;
    let stats = tell(&store, "INFO commandstats").await?;
    assert!(stats.contains("cmdstat_exec:"), "plain sets are written in transactions: {stats}");
    let complete = async |scene: &Scene, steps: usize| {
        let store = scene.store().await?;
        until("all keys are there again", async || {
            redis_client::count(&store, "key-").await.is_ok_and(|count| count == steps * STEP * PARTITIONS)
        })
        .await
    };
    // Once under a connection that watches, once under one that is lost.
    tell(&store, "FLUSHALL").await?;
    scene.produce(numbered(STEP * PARTITIONS)).await?;
    complete(&scene, 2).await?;
    scene.redis.stop();
    scene.redis.start_again().await?;
    scene.produce(numbered(2 * STEP * PARTITIONS)).await?;
    complete(&scene, 3).await?;
    assert_it_went_back(&scene, &mut connector).await
}
