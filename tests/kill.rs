//! `kill -9` at random moments: nothing is lost, and the last value of every key is right.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use connect_testkit::dice::Dice;
use fred::cmd;
use fred::interfaces::ClientLike;
use system_tests::{Scene, metrics_until, record, report, seed};
use xtask::effort::share;
use xtask::redis_client;

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");

const RECORDS: usize = 200_000;
const KEYS: usize = 5_000;
const PARTITIONS: usize = 4;
const KILLS: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn twenty_kills_over_200_000_records_lose_nothing() -> Result<()> {
    let seed = seed();
    let dice = Dice::new(seed);
    let scene = Scene::new(BINARY, "kill", PARTITIONS as i32).await?;
    let mut model = BTreeMap::new();
    let records = (0..RECORDS).map(|number| {
        let key = number * 7919 % KEYS;
        let value = (!number.is_multiple_of(11)).then(|| format!("{number}"));
        model.insert(format!("key-{key}"), value.clone());
        (key % PARTITIONS, record(Some(format!("key-{key}").as_bytes()), value.as_deref().map(str::as_bytes)))
    });
    scene.produce(records.collect::<Vec<_>>()).await?;

    let store = scene.store().await?;
    let offsets = format!("connect:offsets:{}", scene.topic);
    let (mut lives, mut met) = (0, 0);
    while met < share(KILLS) {
        let before = redis_client::offsets(&store, &offsets).await?;
        // A rate keeps the work going while it is killed.
        let mut connector = scene.connector_named("connector", &[("CONNECT_RATE", "10000")])?;
        // Some lives end before anything is read, most in the middle of the work: only these count.
        tokio::time::sleep(Duration::from_millis(dice.below(600))).await;
        assert!(connector.process().exited()?.is_none(), "life {lives} ended by itself: {}", scene.logged());
        connector.process().kill();
        let after = redis_client::offsets(&store, &offsets).await?;
        lives += 1;
        met += u64::from(after > before && after < RECORDS as u64);
        assert!(lives <= 5 * KILLS, "the kills hit nothing: {met} of {lives}");
    }
    report(&format!("{met} of {lives} kills came while records were being written"));
    let stats: String = store.custom(cmd!("INFO"), vec!["commandstats"]).await?;
    assert!(stats.contains("cmdstat_exec:calls="), "plain sets are written in transactions: {stats}");
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "nothing is left", |m| {
        m.sum("connect_partitions", &[]) == PARTITIONS as f64
            && m.sum("connect_committed_offset", &[]) == RECORDS as f64
    })
    .await?;
    connector.finish().await?;

    let keys: Vec<_> = model.keys().cloned().collect();
    let values = redis_client::values(&store, &keys).await?;
    for ((key, expected), found) in model.iter().zip(values) {
        assert_eq!(found.as_deref(), expected.as_deref().map(str::as_bytes), "{key}; seed {seed}");
    }
    Ok(())
}
