//! A stop: what is in hand is finished, or the time runs out and the exit code says so.

use anyhow::Result;
use system_tests::{PATIENCE, Scene, exit_code, metrics_until, record, until};
use xtask::process::Signal;

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_drain_that_takes_too_long_exits_75_and_commits_nothing_of_it() -> Result<()> {
    let mut scene = Scene::new(BINARY, "drain-late", 1).await?.set("CONNECT_DRAIN_TIMEOUT", "2s");
    scene.produce([(0, record(Some(b"a"), Some(b"1")))]).await?;
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "the first is written", |m| m.written() == 1).await?;
    scene.redis.pause()?;
    scene.produce([(0, record(Some(b"b"), Some(b"2")))]).await?;
    metrics_until(&mut connector, "the second is in hand", |m| m.read() == 2).await?;
    assert_eq!(connector.status("/livez").await?, 200, "a store that hangs is no reason to kill the process");
    connector.process().signal(Signal::TERM)?;
    assert_eq!(exit_code(&mut connector).await?, 75, "{}", scene.logged());
    assert!(scene.logged().contains("CONNECT_DRAIN_TIMEOUT"), "{}", scene.logged());

    scene.redis.resume()?;
    let mut connector = scene.connector()?;
    // Whether the request in hand landed after all or not: the record is there, and nothing is left.
    let store = scene.store().await?;
    until("the second is there", async || {
        use fred::interfaces::KeysInterface;
        store.get::<Option<String>, _>("b").await.ok().flatten().as_deref() == Some("2")
    })
    .await?;
    metrics_until(&mut connector, "nothing is left", |m| m.lag() == 0).await?;
    connector.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn readiness_follows_the_store_check_and_the_assignment() -> Result<()> {
    let mut scene = Scene::new(BINARY, "ready", 1).await?;
    scene.redis.shutdown().await?;
    let mut connector = scene.connector()?;
    until("it is alive", async || connector.status("/livez").await.is_ok_and(|status| status == 200)).await?;
    assert_eq!(connector.status("/readyz").await?, 503);
    scene.redis.start_again().await?;
    until("it is ready", async || connector.status("/readyz").await.is_ok_and(|status| status == 200)).await?;
    let begun = std::time::Instant::now();
    connector.finish().await?;
    assert!(begun.elapsed() < PATIENCE);
    Ok(())
}
