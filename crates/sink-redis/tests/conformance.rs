//! The checks that every sink passes, on a real Redis.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use connect_core::config::Section;
use connect_core::{Record, Sink, SinkError};
use connect_testkit::conformance::{Dump, Harness, Place, Promise, conformance};
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::Config;
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use sink_redis::{RedisConfig, RedisSink};
use xtask::services::{Redis, RedisOptions};

const PASSWORD: &str = "right";

/// One server; each place is a database of it.
struct OnRedis {
    redis: Redis,
    command: &'static str,
    databases: Mutex<BTreeMap<String, usize>>,
}

impl OnRedis {
    async fn start(command: &'static str) -> Self {
        let arguments = ["--databases", "250", "--requirepass", PASSWORD].map(str::to_owned).to_vec();
        let redis = Redis::start(RedisOptions { arguments, ..RedisOptions::default() }).await.unwrap();
        Self { redis, command, databases: Mutex::default() }
    }

    fn database(&self, place: &Place) -> usize {
        let mut databases = self.databases.lock().unwrap();
        let next = databases.len();
        *databases.entry(place.name.clone()).or_insert(next)
    }

    /// A client in the database of the place; keys and values are whatever bytes they are.
    async fn client(&self, place: &Place) -> Client {
        let url = format!("redis://:{PASSWORD}@127.0.0.1:{}/{}", self.redis.port(), self.database(place));
        let client = Builder::from_config(Config::from_url(&url).unwrap()).build().unwrap();
        client.init().await.unwrap();
        client
    }
}

async fn ask(client: &Client, words: &[&[u8]]) -> Value {
    let name = String::from_utf8(words[0].to_vec()).unwrap();
    let words: Vec<Value> = words[1..].iter().map(|word| Value::Bytes(Bytes::copy_from_slice(word))).collect();
    client.custom(CustomCommand::new(name, ClusterHash::FirstKey, false), words).await.unwrap()
}

fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::Array(values) => values.into_iter().map(bytes).collect::<Vec<_>>().join(&b'\n'),
        value => value.into_bytes().unwrap_or_default().to_vec(),
    }
}

impl Harness for OnRedis {
    type Sink = RedisSink;

    async fn connect(&self, place: &Place) -> Result<RedisSink, SinkError> {
        let address = place.through.unwrap_or(([127, 0, 0, 1], self.redis.port()).into());
        let url = format!("redis://{address}/{}", self.database(place));
        let pairs = [
            ("CONNECT_REDIS_URL", url.as_str()),
            ("CONNECT_REDIS_PASSWORD", if place.wrong_password { "wrong" } else { PASSWORD }),
            ("CONNECT_REDIS_COMMAND", self.command),
            ("CONNECT_REDIS_TIMEOUT", "2s"),
        ];
        let config = RedisConfig::from_pairs(&pairs).unwrap();
        let sink = RedisSink::new(config, &place.name, &["events".to_owned()]).map_err(SinkError::fatal)?;
        sink.check().await?;
        Ok(sink)
    }

    async fn dump(&self, place: &Place) -> Dump {
        let client = self.client(place).await;
        let mut dump = Dump::new();
        let Value::Array(keys) = ask(&client, &[b"KEYS", b"*"]).await else { return dump };
        for key in keys.into_iter().map(bytes).filter(|key| !key.starts_with(b"connect:offsets:")) {
            let value = match ask(&client, &[b"TYPE", &key]).await.as_str().as_deref() {
                Some("string") => ask(&client, &[b"GET", &key]).await,
                Some("list") => ask(&client, &[b"LRANGE", &key, b"0", b"-1"]).await,
                _ => continue,
            };
            dump.insert(key, bytes(value));
        }
        client.quit().await.unwrap();
        dump
    }

    fn promises(&self) -> &[Promise] {
        &[Promise::Guarded, Promise::KeepsOffsets, Promise::Fenced, Promise::Deletes, Promise::Authenticates]
    }

    fn address(&self) -> Option<std::net::SocketAddr> {
        Some(([127, 0, 0, 1], self.redis.port()).into())
    }

    async fn poison(&self, place: &Place, record: Record) -> Option<Record> {
        if self.command == "set" {
            return None;
        }
        let client = self.client(place).await;
        ask(&client, &[b"HSET", b"in-the-way", b"field", b"value"]).await;
        client.quit().await.unwrap();
        Some(Record { key: Some(Bytes::from_static(b"in-the-way")), ..record })
    }

    fn expect(&self, records: &[Record]) -> Dump {
        let mut dump = Dump::new();
        for record in records {
            let Some(key) = record.key.as_ref().map(|key| key.to_vec()) else { continue };
            match &record.value {
                None => drop(dump.remove(&key)),
                Some(value) if self.command == "set" => drop(dump.insert(key, value.to_vec())),
                Some(value) => {
                    let list = dump.entry(key).or_default();
                    if !list.is_empty() {
                        list.push(b'\n');
                    }
                    list.extend_from_slice(value);
                }
            }
        }
        dump
    }
}

/// Runs the checks: nothing may be left unsaid but this.
async fn conforms(command: &'static str, not_promised: &[&str]) {
    let report = conformance(&OnRedis::start(command).await).await;
    report.assert();
    assert_eq!(report.not_promised(), not_promised);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn whole_values_conform() {
    // SET takes whatever value it is given, over whatever was there.
    conforms("set", &["what the store refuses is named exactly", "what the store puts off is named exactly"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn what_accumulates_conforms() {
    conforms("rpush", &["what the store puts off is named exactly"]).await;
}
