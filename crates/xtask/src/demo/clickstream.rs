//! `demo clickstream`: the example of a session cache, writing and reading side, with what a read takes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    connector::{self, Connector, get},
    events::Events,
    kafka_client::{self, Producer},
    paths, ports,
    process::{self, Lifetime, Process},
    services::{Kafka, KafkaOptions, Redis, RedisOptions},
};

const TOPIC: &str = "clickstream";
const PARTITIONS: i32 = 4;
const EVENTS: u64 = 400_000;
const USERS: u64 = 10_000;
/// So many sessions are read from the cache, and from the topic, where each takes long.
const READS: u64 = 5_000;
const SCANS: u64 = 20;
const SERVICE: &str = "clickstream-cache";
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Fills the cache, asks the service for sessions both ways, compares each, and prints how long they took.
///
/// # Errors
/// The set-up failed, or an answer isn't the user's last event; the message has it.
pub async fn run() -> Result<()> {
    println!("building sink-redis and {SERVICE}");
    let sink = connector::build("sink-redis", "release")?;
    let service = connector::build(SERVICE, "release")?;
    println!("starting Kafka and Redis");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let redis = Redis::start(RedisOptions::default()).await?;
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    kafka_client::create_topic(&client, TOPIC, PARTITIONS).await?;
    let directory = tempfile::Builder::new().prefix("demo-").tempdir_in(paths::services().join("run"))?;
    let environment = [
        ("CONNECT_NAME", "sessions"),
        ("CONNECT_KAFKA_BROKERS", &kafka.bootstrap()),
        ("CONNECT_KAFKA_TOPICS", TOPIC),
        ("CONNECT_REDIS_URL", &redis.url()),
        ("CONNECT_REDIS_COMMAND", "hset"),
        ("CONNECT_REDIS_KEY", "session:{key}"),
        ("CONNECT_REDIS_TTL", "30m"),
    ];
    let mut connector = Connector::start(&sink, &environment, &directory.path().join("sink-redis.log"))?;
    let port = ports::free()?;
    let mut command = process::command(&service, Lifetime::Owned);
    command.env("REDIS_URL", redis.url()).env("KAFKA_BROKERS", kafka.bootstrap()).env("KAFKA_TOPIC", TOPIC);
    command.env("LISTEN", format!("127.0.0.1:{port}"));
    let mut service = Process::spawn_logged(SERVICE, command, directory.path().join("service.log"))?;

    let begun = Instant::now();
    let events = Events::new(1, USERS, Utc::now());
    let mut producer = Producer::new(&client, TOPIC, PARTITIONS).await?;
    for number in 0..EVENTS {
        producer.send(events.user(number) as usize, events.record(number)).await?;
    }
    producer.finish().await?;
    connector.wait_until_written(EVENTS).await?;
    println!("{EVENTS} events of {USERS} users are in the cache after {:.1} s", begun.elapsed().as_secs_f64());

    let last = events.last_of_each_user(EVENTS);
    for read in 0..READS + SCANS {
        let user = read * 7_919 % USERS;
        let key = Events::key(user);
        let path = match read {
            0..READS => format!("/sessions/{key}"),
            _ => format!("/log/{}/{key}", user % PARTITIONS as u64),
        };
        let number = last[user as usize].context("each user has events")?;
        let answer = ask(&mut service, port, &path).await?;
        let found: serde_json::Value = serde_json::from_str(&answer).with_context(|| format!("{path}: {answer}"))?;
        // A hash holds text, the event a number.
        if found["sequence"].to_string().trim_matches('"') != number.to_string() {
            bail!("{path} is {answer}, not {}", events.value(number));
        }
    }
    println!(
        "{} answers, each the user's last event; a partition holds {} events",
        READS + SCANS,
        EVENTS / PARTITIONS as u64
    );
    print!("{}", ask(&mut service, port, "/latency").await?);
    service.terminate(ANSWER_WITHIN).await?;
    connector.drain().await?;
    Ok(())
}

/// The body of a good answer, as soon as the service listens.
async fn ask(service: &mut Process, port: u16, path: &str) -> Result<String> {
    let begun = Instant::now();
    loop {
        if let Some(status) = service.exited()? {
            bail!("the service ended ({status}); {}", service.log_tail());
        }
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
            match timeout(ANSWER_WITHIN, get(stream, path)).await.context("the service doesn't answer")?? {
                (200, body) => return Ok(body),
                (status, body) => bail!("{path} was answered with {status}: {body}"),
            }
        }
        if begun.elapsed() > ANSWER_WITHIN {
            bail!("the service doesn't listen; {}", service.log_tail());
        }
        sleep(Duration::from_millis(20)).await;
    }
}
