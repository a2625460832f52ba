//! The main job: what is in Redis is what the topic says, across a restart.

use std::collections::BTreeMap;

use anyhow::Result;
use fred::interfaces::{HashesInterface, ServerInterface};
use system_tests::{Scene, assert_account_adds_up, metrics_until, outcome, record, until};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");

const PARTITIONS: usize = 4;

/// Record `number`: one of 500 keys, every seventh a tombstone.
fn event(number: usize) -> (String, Option<String>) {
    let key = format!("user-{}", number * 7919 % 500);
    (key, (!number.is_multiple_of(7)).then(|| format!("{{\"number\":{number}}}")))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn redis_holds_what_the_topic_says_across_a_restart() -> Result<()> {
    let scene = Scene::new(BINARY, "main-job", PARTITIONS as i32).await?.set("CONNECT_REDIS_KEY", "session:{key}");
    let mut model = BTreeMap::new();
    let mut produce = async |numbers: std::ops::Range<usize>| {
        let records: Vec<_> = numbers
            .map(|number| {
                let (key, value) = event(number);
                model.insert(format!("session:{key}"), value.clone());
                let partition = number * 7919 % 500 % PARTITIONS;
                (partition, record(Some(key.as_bytes()), value.as_deref().map(str::as_bytes)))
            })
            .collect();
        scene.produce(records).await
    };

    produce(0..20_000).await?;
    let mut connector = scene.connector()?;
    let metrics = metrics_until(&mut connector, "20,000 records written", |m| m.written() == 20_000).await?;
    assert_account_adds_up(&metrics);
    assert_eq!(metrics.lag(), 0);
    connector.finish().await?;

    produce(20_000..30_000).await?;
    let mut connector = scene.connector()?;
    let metrics = metrics_until(&mut connector, "the rest written", |m| m.written() >= 10_000 && m.lag() == 0).await?;
    assert_eq!((metrics.read(), outcome(&metrics, "written")), (10_000, 10_000), "nothing is read twice");
    assert_account_adds_up(&metrics);
    connector.finish().await?;

    let store = scene.store().await?;
    let keys: Vec<_> = model.keys().cloned().collect();
    let values = xtask::redis_client::values(&store, &keys).await?;
    for ((key, expected), found) in model.iter().zip(values) {
        assert_eq!(found.as_deref(), expected.as_deref().map(str::as_bytes), "{key}");
    }
    let offsets: BTreeMap<String, String> = store.hgetall(format!("connect:offsets:{}", scene.topic)).await?;
    assert!(offsets.len() >= PARTITIONS, "an offset a partition: {offsets:?}");
    let present = model.values().filter(|value| value.is_some()).count() as i64;
    // Markers of transactions go by themselves.
    until("the sessions and the offsets, and nothing else", async || {
        store.dbsize::<i64>().await.unwrap_or(0) == present + 1
    })
    .await?;
    Ok(())
}
