//! `kill -9` at random moments: nothing is lost, and the last value of every key is right.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use connect_testkit::dice::Dice;
use system_tests::{Scene, metrics_until, record, seed};
use xtask::effort::share;

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
    // A rate keeps the work going while it is killed: 200,000 records at this pace last longer than 20 lives.
    let scene = Scene::new(BINARY, "kill", PARTITIONS as i32).await?.set("CONNECT_RATE", "20000");
    let mut model = BTreeMap::new();
    let records = (0..RECORDS).map(|number| {
        let key = number * 7919 % KEYS;
        let value = (!number.is_multiple_of(11)).then(|| format!("{number}"));
        model.insert(format!("key-{key}"), value.clone());
        (key % PARTITIONS, record(Some(format!("key-{key}").as_bytes()), value.as_deref().map(str::as_bytes)))
    });
    scene.produce(records.collect::<Vec<_>>()).await?;

    for life in 0..share(KILLS) {
        let mut connector = scene.connector()?;
        // Some lives end before anything is read, most in the middle of the work.
        if dice.percent(75) {
            connector.wait_until_written(1).await?;
        }
        let after = dice.below(600);
        tokio::time::sleep(Duration::from_millis(after)).await;
        assert!(connector.process().exited()?.is_none(), "life {life} ended by itself: {}", scene.logged());
        connector.process().kill();
    }
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "nothing is left", |m| {
        m.sum("connect_partitions", &[]) == PARTITIONS as f64
            && m.sum("connect_committed_offset", &[]) == RECORDS as f64
    })
    .await?;
    connector.finish().await?;

    let store = scene.store().await?;
    let keys: Vec<_> = model.keys().cloned().collect();
    let values = xtask::redis_client::values(&store, &keys).await?;
    for ((key, expected), found) in model.iter().zip(values) {
        assert_eq!(found.as_deref(), expected.as_deref().map(str::as_bytes), "{key}; seed {seed}");
    }
    Ok(())
}
