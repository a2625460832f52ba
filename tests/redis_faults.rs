//! A Redis that is down, full, or not ours: what may pass is waited for, what can't is said.

use std::time::Duration;

use anyhow::Result;
use fred::interfaces::{ConfigInterface, KeysInterface, ListInterface};
use fred::prelude::*;
use system_tests::{Scene, assert_account_adds_up, exit_code, metrics_until, numbered, record, until};
use xtask::services::{Redis, RedisOptions, shared};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_redis_that_is_down_at_start_is_waited_for() -> Result<()> {
    let mut scene = Scene::new(BINARY, "redis-late", 2).await?;
    scene.produce(numbered(0..100, 2)).await?;
    scene.redis.shutdown().await?;
    let mut connector = scene.connector()?;
    until("it says what it waits for", async || scene.logged().contains("CONNECT_REDIS_URL")).await?;
    assert!(connector.process().exited()?.is_none(), "it lives: {}", scene.logged());
    scene.redis.start_again().await?;
    let metrics = metrics_until(&mut connector, "all written", |m| m.written() == 100).await?;
    assert_account_adds_up(&metrics);
    connector.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_redis_that_goes_down_and_comes_back_as_it_was_ends_up_complete() -> Result<()> {
    let mut scene = Scene::new(BINARY, "redis-gone", 2).await?;
    scene.produce(numbered(0..100, 2)).await?;
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "the first hundred", |m| m.written() == 100).await?;
    scene.redis.stop();
    scene.produce(numbered(100..200, 2)).await?;
    metrics_until(&mut connector, "it tries again", |m| m.sum("connect_retries_total", &[]) > 2.0).await?;
    scene.redis.start_again().await?;
    // It has what it had answered for; of the write that it was killed in the offset tells. One that lost something is
    // in redis_back_in_time.rs.
    let store = scene.store().await?;
    until("all keys are there", async || {
        let keys: i64 = store.dbsize().await.unwrap_or(0);
        keys == 201
    })
    .await?;
    let metrics = metrics_until(&mut connector, "nothing is left", |m| m.lag() == 0).await?;
    assert_account_adds_up(&metrics);
    connector.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_frozen_redis_is_timed_out_and_tried_again() -> Result<()> {
    let mut scene = Scene::new(BINARY, "redis-frozen", 2).await?.set("CONNECT_WRITE_TIMEOUT", "1s");
    scene.produce(numbered(0..100, 2)).await?;
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "the first hundred", |m| m.written() == 100).await?;
    scene.redis.pause()?;
    scene.produce(numbered(100..200, 2)).await?;
    metrics_until(&mut connector, "a time-out", |m| m.sum("connect_retries_total", &[]) >= 1.0).await?;
    scene.redis.resume()?;
    let metrics = metrics_until(&mut connector, "all settled", |m| m.lag() == 0 && m.read() >= 200).await?;
    assert_account_adds_up(&metrics);
    let store = scene.store().await?;
    until("the keys and the offsets are there, and nothing else", async || store.dbsize().await.unwrap_or(0) == 201)
        .await?;
    connector.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_full_redis_is_waited_for_and_loses_nothing() -> Result<()> {
    let scene = Scene::new(BINARY, "redis-full", 2).await?;
    let store = scene.store().await?;
    store.config_set("maxmemory-policy", "noeviction").await?;
    store.config_set("maxmemory", "1").await?;
    scene.produce(numbered(0..100, 2)).await?;
    let mut connector = scene.connector()?;
    until("it says that Redis is full", async || scene.logged().contains("maxmemory")).await?;
    store.config_set("maxmemory", "0").await?;
    let metrics = metrics_until(&mut connector, "all written", |m| m.written() == 100).await?;
    assert_account_adds_up(&metrics);
    connector.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_wrong_password_ends_the_process_and_never_prints() -> Result<()> {
    let options = RedisOptions { arguments: vec!["--requirepass".into(), "right".into()], ..RedisOptions::default() };
    let Ok(redis) = Redis::start(options).await else { panic!("a Redis with a password can't be started") };
    let scene = Scene::with(BINARY, shared::kafka()?, redis, "redis-password", 1).await?;
    // First without a password, then with a wrong one.
    let mut connector = scene.connector()?;
    assert_eq!(exit_code(&mut connector).await?, 1, "{}", scene.logged());
    assert!(scene.logged().contains("CONNECT_REDIS_PASSWORD"), "{}", scene.logged());
    let scene = scene.set("CONNECT_REDIS_PASSWORD", "wr0ng-secret");
    let mut connector = scene.connector()?;
    assert_eq!(exit_code(&mut connector).await?, 1, "{}", scene.logged());
    assert!(!scene.logged().contains("wr0ng-secret"), "{}", scene.logged());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn an_offsets_key_of_another_type_ends_the_process_and_is_named() -> Result<()> {
    let scene = Scene::new(BINARY, "redis-type", 1).await?;
    let key = format!("connect:offsets:{}", scene.topic);
    let store = scene.store().await?;
    store.lpush::<(), _, _>(&key, "not ours").await?;
    let mut connector = scene.connector()?;
    assert_eq!(exit_code(&mut connector).await?, 1, "{}", scene.logged());
    assert!(scene.logged().contains(&key), "{}", scene.logged());
    let left: i64 = store.llen(&key).await?;
    assert_eq!(left, 1, "what is not ours is not touched");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_key_with_an_expiry_goes_away_by_itself() -> Result<()> {
    let scene = Scene::new(BINARY, "redis-ttl", 1).await?.set("CONNECT_REDIS_TTL", "1h");
    scene.produce([(0, record(Some(b"k"), Some(b"v")))]).await?;
    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "written", |m| m.written() == 1).await?;
    let left: i64 = scene.store().await?.pttl("k").await?;
    let hour = Duration::from_secs(3600).as_millis() as i64;
    assert!((hour - 120_000..=hour).contains(&left), "{left} ms");
    connector.finish().await?;
    Ok(())
}
