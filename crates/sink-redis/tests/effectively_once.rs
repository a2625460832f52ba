//! The real binary, killed and paused at random: each record has its effect once.
//!
//! Connectors with different commands read the same topic; what they leave in Redis is compared with a model that applies
//! the same records once, in order.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rskafka::record::Record;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};
use xtask::effort::share;
use xtask::kafka_client::{Producer, connect, create_topic};
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

/// SplitMix64: the same numbers from the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// The number of this run: printed, and taken from SEED to run it again.
fn seed() -> u64 {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    seed
}

/// Keys and values of the topic; no value is a tombstone.
fn events(random: &mut Random) -> Vec<(u64, Option<u64>)> {
    (0..RECORDS).map(|_| (random.below(KEYS), (random.below(50) > 0).then(|| random.below(1_000)))).collect()
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

/// A process of a connector that does not outlive its test.
struct Connector(Child);

impl Connector {
    fn start(log: &Path, kafka: &Kafka, redis: &Redis, connector: usize, more: &[(&str, &str)]) -> Self {
        let (name, settings) = CONNECTORS[connector];
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sink-redis"));
        command
            .env_clear()
            .env("CONNECT_NAME", name)
            .env("CONNECT_KAFKA_BROKERS", kafka.bootstrap())
            .env("CONNECT_KAFKA_TOPICS", TOPIC)
            // No group, so that two processes own the same partitions and a killed one is not waited for.
            .env("CONNECT_KAFKA_ASSIGNMENT", "static")
            .env("CONNECT_REDIS_URL", redis.url())
            .env("CONNECT_REDIS_COMMAND", name)
            .env("CONNECT_REDIS_KEY", format!("{name}:{{key}}"))
            .env("CONNECT_ADMIN_LISTEN", "127.0.0.1:0")
            .env("CONNECT_BATCH_RECORDS", "50")
            .envs(settings.iter().copied())
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    async fn finish(&mut self, deadline: Instant) {
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(Instant::now() < deadline, "it does not come to its end");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
        let mut last = Connector::start(log, kafka, redis, connector, &[("CONNECT_KAFKA_STOP", "end")]);
        last.finish(deadline).await;
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
    let mut random = Random(seed());
    let events = events(&mut random);
    let kafka = Kafka::start(KafkaOptions::default()).await.unwrap();
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    produce(&kafka.bootstrap(), &events).await;
    // Slow enough to be at work during all kills.
    let slow = [("CONNECT_RATE", "1500")];
    let start = |connector| Connector::start(&log, &kafka, &redis, connector, &slow);
    let mut running: Vec<Connector> = (0..CONNECTORS.len()).map(start).collect();
    let mut moved = 0;
    let kills = share(200) as usize;
    for round in 0..kills {
        let victim = round % CONNECTORS.len();
        let before = progress(&redis, victim);
        sleep(Duration::from_millis(random.below(150))).await;
        running[victim].kill();
        moved += usize::from(progress(&redis, victim) > before);
        running[victim] = start(victim);
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
    let mut random = Random(seed());
    let events = events(&mut random);
    let kafka = Kafka::start(KafkaOptions::default()).await.unwrap();
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    produce(&kafka.bootstrap(), &events).await;
    // INCRBY and RPUSH tell of each record that is written twice or not at all.
    for connector in [1, 2] {
        let slow = [("CONNECT_RATE", "3000")];
        let owners = [0, 1].map(|_| Connector::start(&log, &kafka, &redis, connector, &slow));
        for round in 0..share(30) as usize {
            let paused = &owners[round % 2];
            sleep(Duration::from_millis(random.below(200))).await;
            paused.signal(Signal::STOP);
            let before = progress(&redis, connector);
            while progress(&redis, connector) == before && before < RECORDS {
                assert!(Instant::now() < deadline, "the other one does not go on");
                sleep(Duration::from_millis(10)).await;
            }
            paused.signal(Signal::CONT);
        }
        drop(owners);
        until_all_is_written(&log, &kafka, &redis, std::iter::once(connector), deadline, &events).await;
    }
}
