//! A load of updates and deletes of a few keys, the connector that moves it, and what must be there in the end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use connect_testkit::dice::Dice;
use connect_testkit::kill::{Binary, Running};
use elasticsearch::http::Method::{Get, Post};
use rskafka::record::Record;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::elasticsearch_client::Client;
use xtask::kafka_client::{Producer, connect, create_topic};
use xtask::services::shared;

use crate::support::unique;

const KEYS: u64 = 2_000;
const PARTITIONS: u64 = 4;
/// A connector may take this long for all of it.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The last document of each key, none where that was a tombstone.
type Model = BTreeMap<String, Value>;

/// A topic, and a connector that moves it and ends.
pub struct Load {
    /// Topic, index and name of the connector.
    pub topic: String,
    model: Model,
    connector: Binary,
    log: PathBuf,
    _directory: TempDir,
}

impl Load {
    /// Produces so many records.
    pub async fn new(records: u64, dice: &Dice, url: &str) -> Self {
        let (kafka, topic) = (shared::kafka().unwrap(), unique("load"));
        let client = connect(&kafka).await.unwrap();
        create_topic(&client, &topic, PARTITIONS as i32).await.unwrap();
        let mut producer = Producer::new(&client, &topic, PARTITIONS as i32).await.unwrap();
        let mut model = Model::new();
        for number in 0..records {
            let key = dice.below(KEYS);
            let name = format!("k{key}");
            let document = (!dice.percent(10)).then(|| json!({ "n": number, "text": "x".repeat(200) }));
            match &document {
                Some(document) => model.insert(name.clone(), document.clone()),
                None => model.remove(&name),
            };
            let value = document.map(|document| document.to_string().into_bytes());
            let timestamp = chrono::Utc::now();
            let record = Record { key: Some(name.into_bytes()), value, headers: BTreeMap::new(), timestamp };
            producer.send((key % PARTITIONS) as usize, record).await.unwrap();
        }
        producer.finish().await.unwrap();
        let directory = TempDir::new().unwrap();
        let log = directory.path().join("log");
        let connector = Binary::new(env!("CARGO_BIN_EXE_sink-elasticsearch"))
            .env("CONNECT_NAME", &topic)
            .env("CONNECT_KAFKA_BROKERS", kafka)
            .env("CONNECT_KAFKA_TOPICS", &topic)
            .env("CONNECT_KAFKA_STOP", "end")
            // A group misses a member that was killed only when its session ends; what is tested here is not the group.
            .env("CONNECT_KAFKA_ASSIGNMENT", "static")
            .env("CONNECT_BATCH_RECORDS", "500")
            .env("CONNECT_ADMIN_LISTEN", "127.0.0.1:0")
            .env("CONNECT_ELASTICSEARCH_URLS", url)
            .log(&log);
        Self { topic, model, connector, log, _directory: directory }
    }

    /// Sets a variable of the connector.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.connector = self.connector.env(name, value);
        self
    }

    /// Starts a connector.
    pub fn start(&self) -> Running {
        self.connector.start().unwrap()
    }

    /// Starts a connector that writes at most so many records a second.
    pub fn start_at(&self, rate: u64) -> Running {
        self.connector.clone().env("CONNECT_RATE", rate.to_string()).start().unwrap()
    }

    /// Runs one of the connector's other commands.
    pub async fn call(&self, arguments: &[&str]) -> ExitStatus {
        let command = arguments.iter().fold(self.connector.clone(), |command, argument| command.arg(*argument));
        command.start().unwrap().wait(PATIENCE).await.unwrap_or_else(|error| panic!("{error}:\n{}", self.logged()))
    }

    /// Waits until a connector has written everything, and compares.
    pub async fn ends_right(&self, mut running: Running, client: &Client) {
        let status = running.wait(PATIENCE).await.unwrap_or_else(|error| panic!("{error}:\n{}", self.logged()));
        let said = self.logged();
        assert!(status.success(), "{said}");
        // The metrics ended with the process: its last line is its account.
        assert!(said.contains("what became of the records") && !said.contains("does not add up"), "{said}");
        client.ask(Post, &format!("{}/_refresh", self.topic), "").await.unwrap();
        let found = client.ask(Get, &format!("{}/_search?size=10000", self.topic), "").await.unwrap();
        let hits = found["hits"]["hits"].as_array().unwrap().iter();
        let mut documents: Model =
            hits.map(|hit| (hit["_id"].as_str().unwrap().into(), hit["_source"].clone())).collect();
        // What guarded updates leave of a deleted document is its guard.
        documents.values_mut().for_each(|document| drop(document.as_object_mut().unwrap().remove("connect_offsets")));
        documents.retain(|_, document| *document != json!({}));
        assert_eq!(documents.len(), self.model.len());
        let differing = self.model.iter().filter(|(key, document)| documents.get(*key) != Some(document));
        assert_eq!(differing.map(|(key, _)| key).collect::<Vec<_>>(), Vec::<&String>::new());
    }

    /// What the connectors have logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Dice for a test.
pub fn dice() -> Dice {
    Dice::new(xtask::seed::seed())
}

/// Waits until a test's load has begun to arrive.
pub async fn until_begun(load: &Load, client: &Client) {
    let begun = async {
        while client.count(&load.topic).await.unwrap_or_default() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap_or_else(|_| panic!("nothing arrives:\n{}", load.logged()));
}

/// How often something was written to an index, or deleted.
pub async fn writes(client: &Client, index: &str) -> u64 {
    let (_, stats) = client.send(Get, &format!("{index}/_stats/indexing"), "").await.unwrap();
    let indexing = &stats["_all"]["primaries"]["indexing"];
    ["index_total", "delete_total"].iter().filter_map(|name| indexing[*name].as_u64()).sum()
}
