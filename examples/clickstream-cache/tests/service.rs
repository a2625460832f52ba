//! The whole example on real servers: events through sink-redis into the cache, the cache over HTTP.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use chrono::{Duration, Utc};
use clickstream_cache::log::Log;
use clickstream_cache::sessions::Sessions;
use clickstream_cache::{Service, router};
use serde_json::Value;
use system_tests::{Scene, record, until};
use tokio::net::{TcpListener, TcpStream};
use xtask::connector::{self, get};
use xtask::events::Events;

const USERS: u64 = 50;
const EVENTS: u64 = 2_000;
const PARTITIONS: i32 = 2;

async fn serve(redis: &str, kafka: &str, topic: &str) -> Result<SocketAddr> {
    let service = Service::new(Sessions::connect(redis)?, Log::new(kafka, topic));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(axum::serve(listener, router(service)).into_future());
    Ok(address)
}

async fn ask(address: SocketAddr, path: &str) -> Result<(u16, Value)> {
    let (status, body) = get(TcpStream::connect(address).await?, path).await?;
    Ok((status, serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))?))
}

/// A hash holds text: `7` and `true` as they stand in the event.
fn as_text(event: &str) -> Result<Value> {
    let Value::Object(fields) = serde_json::from_str(event)? else { bail!("no object") };
    let text = |value: Value| match value {
        Value::String(text) => Value::String(text),
        other => Value::String(other.to_string()),
    };
    Ok(fields.into_iter().map(|(name, value)| (name, text(value))).collect())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn sessions_are_answered_from_the_cache_and_what_is_not_there_is_said() -> Result<()> {
    let binary = connector::tested("sink-redis")?;
    let mut scene = Scene::new(&binary.to_string_lossy(), "clickstream", PARTITIONS)
        .await?
        .set("CONNECT_REDIS_COMMAND", "hset")
        .set("CONNECT_REDIS_KEY", "session:{key}")
        .set("CONNECT_REDIS_TTL", "30m");
    let events = Events::new(1, USERS, Utc::now());
    let partition = |user: u64| (user % PARTITIONS as u64) as usize;
    scene.produce((0..EVENTS).map(|n| (partition(events.user(n)), events.record(n)))).await?;
    // Somebody who left an hour ago: the session has ended already.
    let mut old = record(Some(b"user-gone"), Some(br#"{"user":"user-gone"}"#));
    old.timestamp = Utc::now() - Duration::hours(1);
    scene.produce([(0, old)]).await?;
    let mut connector = scene.connector()?;
    connector.wait_until_written(EVENTS).await?;

    let address = serve(&scene.redis.url(), &scene.kafka, &scene.topic).await?;
    until("the service is connected", async || {
        ask(address, "/sessions/nobody").await.is_ok_and(|(status, _)| status == 404)
    })
    .await?;
    for (user, last) in (0..).zip(events.last_of_each_user(EVENTS)) {
        let expected = events.value(last.context("each user has events")?);
        let key = Events::key(user);
        assert_eq!(ask(address, &format!("/sessions/{key}")).await?, (200, as_text(&expected)?));
        if user < 3 {
            let from_log = ask(address, &format!("/log/{}/{key}", partition(user))).await?;
            assert_eq!(from_log, (200, serde_json::from_str(&expected)?), "the topic says the same");
        }
    }
    for path in ["/sessions/user-gone", "/sessions/nobody"] {
        let (status, body) = ask(address, path).await?;
        assert_eq!(status, 404, "{path}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains("no session")), "{body}");
    }
    let (_, latencies) = get(TcpStream::connect(address).await?, "/latency").await?;
    assert!(latencies.contains(&format!("of {USERS}\n")), "{latencies}");

    // Redis goes and comes back: said meanwhile, served again without a restart.
    scene.redis.stop();
    let key = Events::key(0);
    let (status, body) = ask(address, &format!("/sessions/{key}")).await?;
    assert_eq!(status, 503, "{body}");
    assert!(body["error"].as_str().is_some_and(|error| error.contains("at the moment")), "{body}");
    scene.redis.start_again().await?;
    until("it answers again", async || {
        ask(address, &format!("/sessions/{key}")).await.is_ok_and(|(status, _)| status == 200)
    })
    .await?;
    connector.drain().await?;
    Ok(())
}
