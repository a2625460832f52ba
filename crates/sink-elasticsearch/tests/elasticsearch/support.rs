//! Servers, sinks and batches for the tests.
//!
//! Tests run one at a time and share a server of each version: one takes a minute to start. Every run of the tests has
//! Elasticsearch 9, and OpenSearch for what needs scripts; `cargo xtask test --nightly` has every version.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use connect_core::config::Section;
use connect_core::{Batch, Context, Item, Outcome, Record, Settings, Sink, SinkError, TopicPartition, Verdict};
use sink_elasticsearch::op::Op;
use sink_elasticsearch::{ElasticsearchConfig, ElasticsearchSink};
use tokio::sync::{Mutex, OnceCell};
use xtask::effort;
use xtask::elasticsearch_client::Client;
use xtask::services::elasticsearch::VERSION_8;
use xtask::services::{Elasticsearch, ElasticsearchOptions, OpenSearch};

/// A server that the tests of this process share. The kernel ends it with the process.
pub struct Shared {
    pub name: &'static str,
    pub url: String,
    pub client: Client,
}

/// Elasticsearch 9 itself, for a test that stops it and starts it again.
pub async fn node() -> &'static (Mutex<Elasticsearch>, Shared) {
    static SERVER: OnceCell<(Mutex<Elasticsearch>, Shared)> = OnceCell::const_new();
    SERVER.get_or_init(|| start("elasticsearch-9", ElasticsearchOptions::default())).await
}

pub async fn elasticsearch_9() -> &'static Shared {
    &node().await.1
}

async fn elasticsearch_8() -> &'static Shared {
    static SERVER: OnceCell<(Mutex<Elasticsearch>, Shared)> = OnceCell::const_new();
    let options = ElasticsearchOptions { version: Some(VERSION_8.to_owned()), ..ElasticsearchOptions::default() };
    &SERVER.get_or_init(|| start("elasticsearch-8", options)).await.1
}

async fn start(name: &'static str, options: ElasticsearchOptions) -> (Mutex<Elasticsearch>, Shared) {
    let server = Elasticsearch::start(options).await.unwrap();
    let shared = Shared { name, url: server.url(), client: server.client().unwrap() };
    (Mutex::new(server), shared)
}

pub async fn opensearch() -> &'static Shared {
    static SERVER: OnceCell<(OpenSearch, Shared)> = OnceCell::const_new();
    let start = || async {
        let server = OpenSearch::start().await.unwrap();
        let shared = Shared { name: "opensearch-2", url: server.url(), client: server.client().unwrap() };
        (server, shared)
    };
    &SERVER.get_or_init(start).await.1
}

/// Runs a test on each version that has its turn.
pub async fn every_version(test: impl AsyncFn(&'static Shared)) {
    every_elasticsearch(&test).await;
    if effort::full() {
        on(opensearch().await, &test).await;
    }
}

/// Runs a test on each version of Elasticsearch that has its turn.
pub async fn every_elasticsearch(test: impl AsyncFn(&'static Shared)) {
    on(elasticsearch_9().await, &test).await;
    if effort::full() {
        on(elasticsearch_8().await, &test).await;
    }
}

async fn on(server: &'static Shared, test: &impl AsyncFn(&'static Shared)) {
    println!("{}", server.name);
    test(server).await;
}

/// Where a server without TLS listens.
pub fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().unwrap()
}

/// A name that no other test uses.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

/// What the framework tells a sink.
pub fn context(name: &str) -> Context {
    Context { name: name.to_owned(), epoch: 0, topics: vec!["test".to_owned()], settings: Settings::default() }
}

/// A sink with these settings, given without `CONNECT_ELASTICSEARCH_`.
pub fn sink(url: &str, settings: &[(&str, &str)]) -> ElasticsearchSink {
    sink_in_epoch(0, url, settings)
}

/// The same with this `CONNECT_EPOCH`.
pub fn sink_in_epoch(epoch: u16, url: &str, settings: &[(&str, &str)]) -> ElasticsearchSink {
    let mut names = vec![("CONNECT_ELASTICSEARCH_URLS".to_owned(), url)];
    names.extend(settings.iter().map(|(name, value)| (format!("CONNECT_ELASTICSEARCH_{name}"), *value)));
    let pairs: Vec<_> = names.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let context = Context { epoch, ..context("test") };
    ElasticsearchSink::new(ElasticsearchConfig::from_pairs(&pairs).unwrap(), context).unwrap()
}

pub fn record(offset: i64, key: &str, value: &str) -> Record {
    Record {
        topic: "test".into(),
        partition: 0,
        offset,
        timestamp: 1_700_000_000_000 + offset,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Vec::new(),
    }
}

pub fn tombstone(offset: i64, key: &str) -> Record {
    Record { value: None, ..record(offset, key, "") }
}

pub fn batch(sink: &ElasticsearchSink, records: &[Record]) -> Batch<Op> {
    let items = records
        .iter()
        .map(|record| Item { offset: record.offset, op: sink.prepare(record).unwrap().unwrap() })
        .collect();
    let first = records.first().map_or(0, |record| record.offset);
    let next = records.last().map_or(0, |record| record.offset + 1);
    Batch { source: TopicPartition::new("test", 0), expected: None, first, next, items }
}

/// Writes once.
pub async fn write(sink: &ElasticsearchSink, records: &[Record]) -> Result<Outcome, SinkError> {
    sink.write(&batch(sink, records)).await
}

/// Indexes of the items that were rejected, with the reason.
pub fn rejected(outcome: Outcome) -> Vec<(usize, String)> {
    let verdicts = outcome.into_sorted().into_iter();
    verdicts
        .filter_map(|(index, verdict)| match verdict {
            Verdict::Rejected(rejection) => Some((index, rejection.to_string())),
            _ => None,
        })
        .collect()
}

/// Indexes of the items that were superseded.
pub fn superseded(outcome: &Outcome) -> Vec<usize> {
    let verdicts = outcome.exceptions().iter();
    verdicts.filter(|(_, verdict)| *verdict == Verdict::Superseded).map(|(index, _)| *index).collect()
}
