//! Processes that share the partitions without a group: each knows its part by `CONNECT_SHARD`.

use std::collections::BTreeSet;

use anyhow::Result;
use connect_testkit::scrape::Metrics;
use system_tests::{Scene, assert_account_adds_up, metrics_until, numbered};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
const PARTITIONS: usize = 4;
const RECORDS: usize = 400;

fn partitions(metrics: &Metrics) -> BTreeSet<&str> {
    metrics.label_values("connect_records_read_total", "partition")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn each_shard_reads_its_part_and_nothing_else() -> Result<()> {
    let scene = Scene::new(BINARY, "shards", PARTITIONS as i32).await?;
    let mut first = scene.connector_named("first", &[("CONNECT_SHARD", "0/2")])?;
    let mut second = scene.connector_named("second", &[("CONNECT_SHARD", "1/2")])?;
    scene.produce(numbered(0..RECORDS, PARTITIONS)).await?;
    let half = |metrics: &Metrics| metrics.written() as usize == RECORDS / 2;
    let first_has = metrics_until(&mut first, "the first has its half", half).await?;
    let second_has = metrics_until(&mut second, "the second has its half", half).await?;
    for metrics in [&first_has, &second_has] {
        // What the other one has written would be read here too, and refused by the store: that must not be what makes it right.
        assert_eq!(metrics.read() as usize, RECORDS / 2, "{metrics:?}");
        assert_eq!(metrics.sum("connect_partitions", &[]), 2.0, "{metrics:?}");
        assert_account_adds_up(metrics);
    }
    let both = &partitions(&first_has) | &partitions(&second_has);
    assert_eq!(both.len(), PARTITIONS, "none is read by both, and none by nobody: {both:?}");
    first.drain().await?;
    second.drain().await?;
    Ok(())
}
