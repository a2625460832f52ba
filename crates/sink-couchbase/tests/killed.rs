//! The real binary between Kafka and the in-memory server, killed again and again in the middle of its work.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::Utc;
use couchbase_test_server::{Options, Server};
use rskafka::record::Record;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use xtask::connector::Connector;
use xtask::effort::share;
use xtask::kafka_client::{self, Producer};
use xtask::services::shared;

const RECORDS: i64 = 100_000;
const KEYS: i64 = 500;
const PARTITIONS: i32 = 4;
const KILLS: u64 = 60;
/// Without progress for this long the connector is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// The generator that makes a failure replay: SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// What each counter must be in the end: the sum of its amounts since its last tombstone.
async fn produce(bootstrap: &str, topic: &str, dice: &mut Dice) -> BTreeMap<String, i64> {
    let client = kafka_client::connect(bootstrap).await.unwrap();
    kafka_client::create_topic(&client, topic, PARTITIONS).await.unwrap();
    let mut producer = Producer::new(&client, topic, PARTITIONS).await.unwrap();
    let mut expected = BTreeMap::new();
    for _ in 0..RECORDS {
        let number = dice.below(KEYS as u64) as i64;
        let key = format!("counter-{number}");
        let value = if dice.below(200) == 0 {
            expected.remove(&key);
            None
        } else {
            let amount = dice.below(1_000) as i64 - 300;
            if amount != 0 {
                *expected.entry(key.clone()).or_insert(0) += amount;
            }
            Some(amount.to_string().into_bytes())
        };
        let record = Record { key: Some(key.into_bytes()), value, headers: BTreeMap::new(), timestamp: Utc::now() };
        producer.send((number % i64::from(PARTITIONS)) as usize, record).await.unwrap();
    }
    producer.finish().await.unwrap();
    expected
}

fn counters(server: &Server) -> BTreeMap<String, i64> {
    let number = |value: &[u8]| serde_json::from_slice::<Value>(value).unwrap()["n"].as_i64().unwrap();
    server
        .documents("_default", "_default")
        .iter()
        .map(|(id, document)| (id.clone(), number(&document.value)))
        .collect()
}

/// How many documents were written, in all lives of the connector.
fn writes(server: &Server) -> u64 {
    server.requests(couchbase_test_server::opcode::MUTATE_IN)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: run by cargo xtask test"]
async fn counters_are_exact_after_sixty_kills() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64);
    println!("SEED={seed} replays this run");
    let mut dice = Dice(seed);
    let bootstrap = shared::kafka().unwrap();
    let topic = format!("killed-{seed}");
    let expected = produce(&bootstrap, &topic, &mut dice).await;
    let server = Server::start(Options::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let url = server.url();
    let environment = [
        ("CONNECT_NAME", topic.as_str()),
        ("CONNECT_KAFKA_BROKERS", &bootstrap),
        ("CONNECT_KAFKA_TOPICS", &topic),
        ("CONNECT_COUCHBASE_URL", &url),
        ("CONNECT_COUCHBASE_USERNAME", "Administrator"),
        ("CONNECT_COUCHBASE_PASSWORD", "password"),
        ("CONNECT_COUCHBASE_BUCKET", "default"),
        ("CONNECT_COUCHBASE_ACTION", "counter"),
        ("CONNECT_COUCHBASE_PATH", "n"),
        ("CONNECT_COUCHBASE_AMOUNT", "{value}"),
        ("CONNECT_BATCH_RECORDS", "500"),
    ];
    let start = |life: u64| {
        let log = directory.path().join(format!("{life}.log"));
        Connector::start(Path::new(env!("CARGO_BIN_EXE_sink-couchbase")), &environment, &log).unwrap()
    };
    let mut in_the_middle = 0;
    let kills = share(KILLS);
    for life in 0..kills {
        let mut connector = start(life);
        // Killed after so many more writes, so that each life gets somewhere whatever the speed of the machine.
        let until = writes(&server) + 1 + dice.below(2 * RECORDS as u64 / kills);
        let deadline = Instant::now() + STUCK_AFTER;
        let mut seen = false;
        while writes(&server) < until {
            let metrics = connector.metrics().await.unwrap();
            seen = metrics.is_some_and(|metrics| metrics.read() > 0 && metrics.lag() == 0);
            if seen {
                break;
            }
            assert!(Instant::now() < deadline, "stuck in life {life}; {}", connector.process().log_tail());
            sleep(Duration::from_millis(2)).await;
        }
        in_the_middle += u64::from(!seen);
        connector.process().kill();
    }
    println!("{in_the_middle} of {kills} kills met the connector at work");
    assert!(in_the_middle >= kills / 2, "the kills came too late to show anything");

    let mut connector = start(kills);
    let mut last = (Instant::now(), writes(&server));
    loop {
        let metrics = connector.metrics().await.unwrap();
        // What is not read yet shows as lag, once every partition is taken up.
        if counters(&server) == expected && metrics.is_some_and(|metrics| metrics.lag() == 0) {
            break;
        }
        if writes(&server) > last.1 {
            last = (Instant::now(), writes(&server));
        }
        if last.0.elapsed() > STUCK_AFTER {
            assert_eq!(counters(&server), expected, "the counters never became what the topic says");
        }
        sleep(Duration::from_millis(50)).await;
    }
    connector.finish().await.unwrap();
    assert_eq!(counters(&server), expected);
}
