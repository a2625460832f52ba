//! Two connectors between one topic and the in-memory server, killed again and again in the middle of their work: one
//! counts, the other puts each record into an array. In the end every document is what the topic says.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::Utc;
use connect_testkit::dice::Dice;
use connect_testkit::scrape::Metrics;
use couchbase_test_server::{Options, Server};
use rskafka::client::Client;
use rskafka::record::Record;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use xtask::connector::Connector;
use xtask::effort;
use xtask::kafka_client::{self, Producer};
use xtask::services::shared;

const RECORDS: u64 = 100_000;
const KEYS: u64 = 500;
const PARTITIONS: u64 = 4;
const KILLS: u64 = 60;
/// Records that come when the killing is over.
const TAIL: u64 = 2_000;
/// Without progress for this long a connector is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// Number and amount of each record of a document since its last tombstone.
type Model = BTreeMap<String, Vec<(u64, i64)>>;

/// Appends these records to the topic, and to the model what they make.
async fn produce(client: &Client, topic: &str, numbers: Range<u64>, dice: &Dice, model: &mut Model) {
    let mut producer = Producer::new(client, topic, PARTITIONS as i32).await.unwrap();
    for number in numbers {
        let key = dice.below(KEYS);
        let id = format!("document-{key}");
        let value = if dice.below(200) == 0 {
            model.remove(&id);
            None
        } else {
            // Never 0, which would be no record for a counter.
            let amount = dice.between(1, 1_000) as i64 * if dice.percent(30) { -1 } else { 1 };
            model.entry(id.clone()).or_default().push((number, amount));
            Some(json!({"number": number, "amount": amount}).to_string().into_bytes())
        };
        let record = Record { key: Some(id.into_bytes()), value, headers: BTreeMap::new(), timestamp: Utc::now() };
        producer.send((key % PARTITIONS) as usize, record).await.unwrap();
    }
    producer.finish().await.unwrap();
}

/// What the counting connector must have made of it.
fn counters(model: &Model) -> BTreeMap<String, Value> {
    let sum = |records: &[(u64, i64)]| records.iter().map(|(_, amount)| amount).sum::<i64>();
    model.iter().map(|(id, records)| (id.clone(), json!({"sum": sum(records)}))).collect()
}

/// What the other one must have made of it.
fn lists(model: &Model) -> BTreeMap<String, Value> {
    let numbers = |records: &[(u64, i64)]| records.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    model.iter().map(|(id, records)| (id.clone(), json!({"all": numbers(records)}))).collect()
}

fn documents(server: &Server, scope: &str, collection: &str) -> BTreeMap<String, Value> {
    let documents = server.documents(scope, collection).into_iter();
    documents.map(|(id, document)| (id, serde_json::from_slice(&document.value).unwrap())).collect()
}

/// A connector over all its lives.
struct Lives {
    environment: Vec<(String, String)>,
    log: PathBuf,
    connector: Connector,
}

impl Lives {
    fn begin(environment: Vec<(String, String)>, log: PathBuf) -> Self {
        let connector = start(&environment, &log);
        Self { environment, log, connector }
    }

    fn kill(&mut self) {
        self.connector.process().kill();
        self.connector = start(&self.environment, &self.log);
    }

    /// Waits until this life's metrics satisfy a condition.
    async fn until(&mut self, condition: impl Fn(&Metrics) -> bool) -> Metrics {
        let mut progress = (Instant::now(), 0);
        loop {
            let metrics = self.connector.metrics().await.unwrap().unwrap_or_default();
            if condition(&metrics) {
                return metrics;
            }
            if metrics.read() > progress.1 {
                progress = (Instant::now(), metrics.read());
            }
            assert!(progress.0.elapsed() < STUCK_AFTER, "stuck: {}", self.connector.process().log_tail());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn start(environment: &[(String, String)], log: &Path) -> Connector {
    let environment: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Connector::start(Path::new(env!("CARGO_BIN_EXE_sink-couchbase")), &environment, log).unwrap()
}

fn done(metrics: &Metrics, records: u64) -> bool {
    metrics.sum("connect_partitions", &[]) as u64 == PARTITIONS
        && metrics.sum("connect_committed_offset", &[]) as u64 == records
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: run by cargo xtask test"]
async fn documents_are_exact_after_sixty_kills() {
    let seed = xtask::seed::seed();
    let (records, kills) = (effort::share(RECORDS), effort::share(KILLS));
    let dice = Dice::new(seed);
    let bootstrap = shared::kafka().unwrap();
    let topic = format!("killed-{}", Utc::now().timestamp_micros());
    let client = kafka_client::connect(&bootstrap).await.unwrap();
    kafka_client::create_topic(&client, &topic, PARTITIONS as i32).await.unwrap();
    let mut model = Model::new();
    produce(&client, &topic, 0..records, &dice, &mut model).await;
    let server = Server::start(Options::default()).await.unwrap();
    server.create_collection("killed", "lists");
    let directory = tempfile::tempdir().unwrap();
    let url = server.url();
    let begin = |name: &str, more: &[(&str, &str)]| {
        let name = format!("{topic}-{name}");
        let common = [
            ("CONNECT_NAME", name.as_str()),
            ("CONNECT_KAFKA_BROKERS", &bootstrap),
            ("CONNECT_KAFKA_TOPICS", &topic),
            // A group misses a member that was killed only when its session ends; what is tested here is not the group.
            ("CONNECT_KAFKA_ASSIGNMENT", "static"),
            ("CONNECT_COUCHBASE_URL", &url),
            ("CONNECT_COUCHBASE_USERNAME", "Administrator"),
            ("CONNECT_COUCHBASE_PASSWORD", "password"),
            ("CONNECT_COUCHBASE_BUCKET", "default"),
            ("CONNECT_BATCH_RECORDS", "500"),
            // A rate keeps the work going while it is killed.
            ("CONNECT_RATE", "4000"),
        ];
        let environment = common.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Lives::begin(environment.collect(), directory.path().join(format!("{name}.log")))
    };
    let counting = [
        ("CONNECT_COUCHBASE_ACTION", "counter"),
        ("CONNECT_COUCHBASE_PATH", "sum"),
        ("CONNECT_COUCHBASE_AMOUNT", "{value.amount}"),
    ];
    let listing = [
        ("CONNECT_COUCHBASE_ACTION", "append"),
        ("CONNECT_COUCHBASE_PATH", "all"),
        ("CONNECT_COUCHBASE_VALUE_PATH", "number"),
        ("CONNECT_COUCHBASE_SCOPE", "killed"),
        ("CONNECT_COUCHBASE_COLLECTION", "lists"),
    ];
    let mut connectors = [begin("counting", &counting), begin("listing", &listing)];

    let mut at_work = 0;
    for _ in 0..kills {
        let victim = &mut connectors[dice.below(2) as usize];
        // Killed after so many more writes, so that each life gets somewhere whatever the speed of the machine.
        let until = 1 + dice.below(2 * records / kills);
        let metrics = victim.until(|metrics| metrics.written() >= until || done(metrics, records)).await;
        at_work += u64::from(!done(&metrics, records));
        victim.kill();
    }
    println!("{at_work} of {kills} kills met a connector at work");
    assert!(at_work >= kills / 2, "the kills came too late to show anything");

    // The last lives have something to read whatever the others left, and account for it.
    produce(&client, &topic, records..records + TAIL, &dice, &mut model).await;
    for lives in &mut connectors {
        lives.until(|metrics| done(metrics, records + TAIL)).await;
        let metrics = lives.connector.finish().await.unwrap();
        println!("in the last life: {:?}", metrics.accounts());
        let superseded = metrics.sum("connect_records_total", &[("outcome", "superseded")]) as u64;
        assert!(
            metrics.written() >= TAIL,
            "seed {seed}: the tail is {TAIL} records, and {} were written",
            metrics.written()
        );
        assert_eq!(metrics.read(), metrics.written() + superseded, "seed {seed}: a record met another fate");
    }
    assert_eq!(documents(&server, "_default", "_default"), counters(&model), "seed {seed}");
    assert_eq!(documents(&server, "killed", "lists"), lists(&model), "seed {seed}");
}
