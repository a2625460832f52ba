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
const RECORDS: u64 = 60_000;
/// So many records go to keys of their own, which no later one writes: whatever comes too late stays and is seen.
const BLOCK: u64 = 500;
const KEYS_OF_A_BLOCK: u64 = 50;
const KEYS: u64 = RECORDS / BLOCK * KEYS_OF_A_BLOCK;
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
    let key = |number| number / BLOCK * KEYS_OF_A_BLOCK + dice.below(KEYS_OF_A_BLOCK);
    (0..RECORDS).map(|number| (key(number), (dice.below(20) > 0).then(|| dice.below(1_000)))).collect()
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
    let mut values_of = vec![Vec::new(); KEYS as usize];
    for (key, value) in events {
        let values: &mut Vec<u64> = &mut values_of[*key as usize];
        match value {
            Some(value) => values.push(*value),
            None => values.clear(),
        }
    }
    let left = |values: &Vec<u64>| match command {
        "incrby" if !values.is_empty() => values.iter().sum::<u64>().to_string(),
        "rpush" => values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        _ => values.last().map_or_else(String::new, ToString::to_string),
    };
    values_of.iter().map(left).collect()
}

fn ask(redis: &Redis, words: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &redis.port().to_string()]).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn found(redis: &Redis, command: &str) -> Vec<String> {
    let read = match command {
        "rpush" => "table.concat(redis.call('LRANGE', name, 0, -1), ' ')",
        "zadd" => "redis.call('ZSCORE', name, key) or ''",
        _ => "redis.call('GET', name) or ''",
    };
    let all = format!(
        "local all = {{}} for key = 0, {KEYS} - 1 do local name = '{command}:' .. key all[key + 1] = {read} end return all"
    );
    ask(redis, &["EVAL", &all, "0"]).lines().map(str::to_owned).collect()
}

/// How many transactions were made, which only plain sets and deletes are, and only where a batch holds enough of them.
fn transactions(redis: &Redis) -> usize {
    let stats = ask(redis, &["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_exec:calls="));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
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
        ("CONNECT_BATCH_RECORDS", "100"),
    ];
    environment.extend(settings.iter().chain(more));
    Connector::start(Path::new(env!("CARGO_BIN_EXE_sink-redis")), &environment, log).unwrap()
}

/// Offsets that a connector has stored, of all partitions.
fn progress(redis: &Redis, connector: usize) -> u64 {
    let key = format!("connect:offsets:{}", CONNECTORS[connector].0);
    let text = ask(redis, &["HGETALL", &key]);
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
        // Of plain sets the state heals where the guard fails, since what is written over is written again.
        assert!(!said.contains("the store went back"), "somebody has set the offset back: {said}");
        let (found, expected) = (found(redis, command), model(command, events));
        assert_eq!(found.len(), expected.len());
        let different = (0..found.len()).filter(|key| found[*key] != expected[*key]);
        let different: Vec<_> = different.map(|key| (key, &found[key], &expected[key])).take(10).collect();
        assert!(different.is_empty(), "{command} differs from the model (key, found, expected): {different:?}");
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
    let slow = [("CONNECT_RATE", "2000")];
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
    let transactions = transactions(&redis);
    println!("{transactions} transactions");
    assert!(transactions > kills, "plain sets were written by scripts: {transactions}");
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
    for (connector, (name, _)) in CONNECTORS.iter().enumerate() {
        let goes_on = async |records: u64| {
            let goal = (progress(&redis, connector) + records).min(RECORDS);
            while progress(&redis, connector) < goal {
                assert!(Instant::now() < deadline, "{name} does not go on");
                sleep(Duration::from_millis(5)).await;
            }
        };
        // Of plain sets the one makes transactions, the other scripts: each must see what the other does.
        let owner =
            |size| start(&log, &kafka, &redis, connector, &[("CONNECT_RATE", "2000"), ("CONNECT_BATCH_RECORDS", size)]);
        let mut owners = [owner("100"), owner("50")];
        for round in 0..share(30) as usize {
            let (stale, other) = (round % 2, 1 - round % 2);
            // It works alone, so that it knows where it stands, and stops with a batch in hand.
            owners[other].process().pause().unwrap();
            goes_on(200).await;
            sleep(Duration::from_millis(dice.below(100))).await;
            owners[stale].process().pause().unwrap();
            owners[other].process().resume().unwrap();
            // Beyond that batch: written now, it would set the offset back.
            goes_on(400).await;
            owners[stale].process().resume().unwrap();
        }
        if *name == "set" {
            let transactions = transactions(&redis);
            println!("{transactions} transactions");
            assert!(transactions > 10, "plain sets were written by scripts: {transactions}");
        }
        drop(owners);
        until_all_is_written(&log, &kafka, &redis, std::iter::once(connector), deadline, &events).await;
    }
}
