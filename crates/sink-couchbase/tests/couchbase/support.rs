//! A sink, its server, and records for them.

use std::time::Duration;

use bytes::Bytes;
use connect_core::config::Section;
use connect_core::{
    Assigned, Batch, Context, Item, Outcome, Record, Settings, Sink, SinkError, TopicPartition, Verdict,
};
use couchbase_test_server::{Options, Server};
use serde_json::Value;
use sink_couchbase::{CouchbaseConfig, CouchbaseSink};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings for this server with these on top, named without their prefix.
pub fn config(server: &Server, pairs: &[(&str, &str)]) -> CouchbaseConfig {
    let url = server.url();
    let base = [("URL", url.as_str()), ("USERNAME", "Administrator"), ("PASSWORD", "password"), ("BUCKET", "default")];
    let kept = base.iter().filter(|(name, _)| pairs.iter().all(|(other, _)| other != name));
    let named: Vec<(String, &str)> =
        kept.chain(pairs).map(|(name, value)| (format!("CONNECT_COUCHBASE_{name}"), *value)).collect();
    let all: Vec<(&str, &str)> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    CouchbaseConfig::from_pairs(&all).unwrap_or_else(|problems| panic!("{:?}", problems.lines()))
}

pub fn sink(server: &Server, pairs: &[(&str, &str)]) -> CouchbaseSink {
    sink_in_epoch(0, server, pairs)
}

pub fn sink_in_epoch(epoch: u16, server: &Server, pairs: &[(&str, &str)]) -> CouchbaseSink {
    CouchbaseSink::new(config(server, pairs), &Context { epoch, ..context() }).unwrap()
}

pub fn context() -> Context {
    Context { name: "test".to_owned(), epoch: 0, topics: vec!["t".to_owned()], settings: Settings::default() }
}

pub async fn start(pairs: &[(&str, &str)]) -> (Server, CouchbaseSink) {
    let server = Server::start(Options::default()).await.unwrap();
    let sink = sink(&server, pairs);
    (server, sink)
}

pub fn record(offset: i64, key: &str, value: impl Into<Option<&'static str>>) -> Record {
    Record {
        topic: "t".into(),
        partition: 0,
        offset,
        timestamp: 1_000,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: value.into().map(|text| Bytes::from_static(text.as_bytes())),
        headers: Vec::new(),
    }
}

/// Writes these records of one partition as one batch, once.
pub async fn try_write(sink: &CouchbaseSink, records: &[Record]) -> Result<Outcome, SinkError> {
    let first = records[0].offset;
    let items: Vec<_> = records
        .iter()
        .filter_map(|record| Some(Item { offset: record.offset, op: sink.prepare(record).unwrap()? }))
        .collect();
    let source = TopicPartition::new(records[0].topic.clone(), records[0].partition);
    let next = records[records.len() - 1].offset + 1;
    let batch = Batch { source, expected: None, first, next, items };
    tokio::time::timeout(PATIENCE, sink.write(&batch)).await.expect("every call is bounded")
}

/// The verdicts of a batch that is written without a retry; `None` for plainly written.
pub async fn write(sink: &CouchbaseSink, records: &[Record]) -> Vec<Option<Verdict>> {
    let outcome = try_write(sink, records).await.unwrap();
    let mut verdicts = vec![None; records.len()];
    for (index, verdict) in outcome.into_sorted() {
        assert_ne!(verdict, Verdict::Retry);
        verdicts[index] = Some(verdict);
    }
    verdicts
}

pub async fn write_one(sink: &CouchbaseSink, record: Record) -> Option<Verdict> {
    write(sink, &[record]).await.remove(0)
}

/// Writes until nothing asks to be sent again, as the core does; tells how many tries it took.
pub async fn write_until_done(sink: &CouchbaseSink, records: &[Record]) -> usize {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut left = records.to_vec();
    for tries in 1.. {
        assert!(tokio::time::Instant::now() < deadline, "{} records are still not written", left.len());
        match try_write(sink, &left).await {
            Ok(outcome) => {
                let retry = |index: usize| {
                    outcome.exceptions().iter().any(|(other, verdict)| *other == index && *verdict == Verdict::Retry)
                };
                left = left.iter().enumerate().filter(|(index, _)| retry(*index)).map(|(_, r)| r.clone()).collect();
            }
            Err(SinkError::Transient { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if left.is_empty() {
            return tries;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!()
}

/// Waits for a state of the server.
pub async fn until(condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "the state never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn take_up(sink: &CouchbaseSink, topic_id: u8) {
    let partition = TopicPartition::new("t", 0);
    sink.resume(&Assigned { topic_id: Some([topic_id; 16]), ..Assigned::new(partition) }).await.unwrap();
}

/// The body of a live document of the default collection.
pub fn body(server: &Server, id: &str) -> Option<Value> {
    let document = server.document(id).filter(|document| !document.deleted)?;
    Some(serde_json::from_slice(&document.value).unwrap())
}

/// The offset that a document or its tombstone remembers of partition `t-0`.
pub fn mark(server: &Server, id: &str) -> Option<i64> {
    server.document(id)?.xattrs.get("_connect")?["t-0"]["offset"].as_i64()
}

pub fn is_rejected(verdict: &Option<Verdict>, part: &str) -> bool {
    matches!(verdict, Some(Verdict::Rejected(rejection)) if rejection.to_string().contains(part))
}
