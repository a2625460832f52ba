//! The real binary, killed and paused at random: each record has its effect once.
//!
//! Connectors with different commands read the same topic; what they leave in Redis is compared with a model that applies
//! the same records once, in order.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use connect_testkit::dice::Dice;
use rskafka::record::Record;
use tokio::time::{Instant, sleep};
use xtask::connector::Connector;
use xtask::effort::share;
use xtask::kafka_client::{Producer, connect, create_topic};
use xtask::seed::seed;
use xtask::services::{Kafka, KafkaOptions, Redis, RedisOptions};

const PARTITIONS: i32 = 2;
const KEYS: u64 = 40;
const RECORDS: u64 = 60_000;
const TOPIC: &str = "events";
/// How long all may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The commands, and the settings beside the command itself.
const CONNECTORS: &[(&str, &[(&str, &str)])] = &[
    ("set", &[]),
    ("incrby", &[("CONNECT_REDIS_AMOUNT", "{value}")]),
    ("rpush", &[]),
    ("zadd", &[("CONNECT_REDIS_SCORE", "{value}"), ("CONNECT_REDIS_MEMBER", "{key}")]),
];

/// Keys and values of the topic; no value is a tombstone.
fn events(dice: &Dice) -> Vec<(u64, Option<u64>)> {
    (0..RECORDS).map(|_| (dice.below(KEYS), (dice.below(50) > 0).then(|| dice.below(1_000)))).collect()
}

async fn produce(bootstrap: &str, events: &[(u64, Option<u64>)]) {
    let client = connect(bootstrap).await.unwrap();
    create_topic(&client, TOPIC, PARTITIONS).await.unwrap();
    let mut producer = Producer::new(&client, TOPIC, PARTITIONS).await.unwrap();
    for (key, value) in events {
        let record = Record {
            key: Some(key.to_string().into_bytes()),
            value: value.map(|value| value.to_string().into_bytes()),
            headers: BTreeMap::new(),
            timestamp: chrono::Utc::now(),
        };
        producer.send(*key as usize, record).await.unwrap();
    }
    producer.finish().await.unwrap();
}

/// What a connector must leave: the answer to the question about each key.
fn model(command: &str, events: &[(u64, Option<u64>)]) -> Vec<String> {
    (0..KEYS)
        .map(|key| {
            let mut values: Vec<u64> = Vec::new();
            for (_, value) in events.iter().filter(|(of, _)| *of == key) {
                match value {
                    Some(value) => values.push(*value),
                    None => values.clear(),
                }
            }
            match command {
                "incrby" if !values.is_empty() => values.iter().sum::<u64>().to_string(),
                "rpush" => values.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
                _ => values.last().map_or_else(String::new, ToString::to_string),
            }
        })
        .collect()
}

fn found(redis: &Redis, command: &str) -> Vec<String> {
    (0..KEYS)
        .map(|key| {
            let name = format!("{command}:{key}");
            let key = key.to_string();
            let words: Vec<&str> = match command {
                "rpush" => vec!["LRANGE", &name, "0", "-1"],
                "zadd" => vec!["ZSCORE", &name, &key],
                _ => vec!["GET", &name],
            };
            let port = redis.port().to_string();
            let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        })
        .collect()
}

fn start(log: &Path, kafka: &Kafka, redis: &Redis, connector: usize, more: &[(&str, &str)]) -> Connector {
    let (name, settings) = CONNECTORS[connector];
    let (bootstrap, url, key) = (kafka.bootstrap(), redis.url(), format!("{name}:{{key}}"));
    let mut environment = vec![
        ("CONNECT_NAME", name),
        ("CONNECT_KAFKA_BROKERS", &bootstrap),
        ("CONNECT_KAFKA_TOPICS", TOPIC),
        // No group, so that two processes own the same partitions and a killed one is not waited for.
        ("CONNECT_KAFKA_ASSIGNMENT", "static"),
        ("CONNECT_REDIS_URL", &url),
        ("CONNECT_REDIS_COMMAND", name),
        ("CONNECT_REDIS_KEY", &key),
        ("CONNECT_BATCH_RECORDS", "50"),
    ];
    environment.extend(settings.iter().chain(more));
    Connector::start(Path::new(env!("CARGO_BIN_EXE_sink-redis")), &environment, log).unwrap()
}

/// Offsets that a connector has stored, of all partitions.
fn progress(redis: &Redis, connector: usize) -> u64 {
    let key = format!("connect:offsets:{}", CONNECTORS[connector].0);
    let port = redis.port().to_string();
    let output = Command::new("redis-cli").args(["-p", &port, "HGETALL", &key]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let positions = lines.chunks(2).filter(|pair| pair[0].starts_with(TOPIC)).map(|pair| pair[1]);
    positions.map(|position| position.split('@').next().unwrap().parse::<u64>().unwrap()).sum()
}

async fn until_all_is_written(
    log: &Path,
    kafka: &Kafka,
    redis: &Redis,
    connectors: impl Iterator<Item = usize>,
    deadline: Instant,
    events: &[(u64, Option<u64>)],
) {
    for connector in connectors {
        // It goes on for ever, so that its account can be asked for at the end.
        let mut last = start(log, kafka, redis, connector, &[]);
        while progress(redis, connector) < RECORDS {
            assert!(last.process().exited().unwrap().is_none(), "it ended by itself: {}", last.process().log_tail());
            assert!(Instant::now() < deadline, "it does not come to its end");
            sleep(Duration::from_millis(20)).await;
        }
        last.finish().await.unwrap();
        let command = CONNECTORS[connector].0;
        assert_eq!(progress(redis, connector), RECORDS, "{command}");
        // The metrics ended with the process: its last line is its account.
        let said = std::fs::read_to_string(log).unwrap();
        assert!(said.contains("what became of the records") && !said.contains("does not add up"), "{said}");
        let (found, expected) = (found(redis, command), model(command, events));
        for key in 0..KEYS as usize {
            assert!(found[key] == expected[key], "{command}: key {key} differs from the model");
        }
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn two_hundred_kills_leave_what_the_model_says() {
    let deadline = Instant::now() + PATIENCE;
    let dice = Dice::new(seed());
    let events = events(&dice);
    let kafka = Kafka::start(KafkaOptions::default()).await.unwrap();
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    produce(&kafka.bootstrap(), &events).await;
    // Slow enough to be at work during all kills.
    let slow = [("CONNECT_RATE", "1500")];
    let begin = |connector| start(&log, &kafka, &redis, connector, &slow);
    let mut running: Vec<Connector> = (0..CONNECTORS.len()).map(begin).collect();
    let mut moved = 0;
    let kills = share(200) as usize;
    for round in 0..kills {
        let victim = round % CONNECTORS.len();
        let before = progress(&redis, victim);
        sleep(Duration::from_millis(dice.below(150))).await;
        running[victim].process().kill();
        moved += usize::from(progress(&redis, victim) > before);
        running[victim] = begin(victim);
        assert!(Instant::now() < deadline, "the kills take too long");
    }
    println!("{moved} of {kills} kills came while records were being written");
    assert!(moved > kills / 10, "the kills hit nothing: {moved}");
    drop(running);
    until_all_is_written(&log, &kafka, &redis, 0..CONNECTORS.len(), deadline, &events).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn two_owners_of_which_one_is_paused_write_nothing_twice() {
    let deadline = Instant::now() + PATIENCE;
    let dice = Dice::new(seed());
    let events = events(&dice);
    let kafka = Kafka::start(KafkaOptions::default()).await.unwrap();
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    produce(&kafka.bootstrap(), &events).await;
    // INCRBY and RPUSH tell of each record that is written twice or not at all.
    for connector in [1, 2] {
        let slow = [("CONNECT_RATE", "3000")];
        let mut owners = [0, 1].map(|_| start(&log, &kafka, &redis, connector, &slow));
        for round in 0..share(30) as usize {
            let paused = owners[round % 2].process();
            sleep(Duration::from_millis(dice.below(200))).await;
            paused.pause().unwrap();
            let before = progress(&redis, connector);
            while progress(&redis, connector) == before && before < RECORDS {
                assert!(Instant::now() < deadline, "the other one does not go on");
                sleep(Duration::from_millis(10)).await;
            }
            paused.resume().unwrap();
        }
        drop(owners);
        until_all_is_written(&log, &kafka, &redis, std::iter::once(connector), deadline, &events).await;
    }
}
