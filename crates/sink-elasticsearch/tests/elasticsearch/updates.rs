//! Partial updates on a server that has the scripting language.

use std::io::Write as _;

use connect_core::{Sink, Verdict};
use elasticsearch::http::Method::{Post, Put};
use serde_json::json;

use crate::support::{batch, opensearch, record, sink, superseded, tombstone, unique, write};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_guarded_update_is_applied_once_and_never_regresses() {
    let server = opensearch().await;
    let index = unique("updates");
    let sink = sink(&server.url, &[("INDEX", &index), ("ACTION", "update")]);
    let records = [
        record(0, "k", r#"{"a":1,"deep":{"x":1}}"#),
        record(1, "k", r#"{"b":2,"deep":{"y":2}}"#),
        record(2, "k", r#"{"a":3}"#),
    ];
    assert!(superseded(&write(&sink, &records).await.unwrap()).is_empty());
    let merged = json!({ "a": 3, "b": 2, "deep": { "x": 1, "y": 2 }, "connect_offsets": { "test-0": 2 } });
    assert_eq!(server.client.document(&index, "k").await.unwrap().unwrap(), merged);
    // A replay, and a late request of the oldest alone.
    assert_eq!(superseded(&write(&sink, &records).await.unwrap()), [0, 1, 2]);
    assert_eq!(superseded(&write(&sink, &records[..1]).await.unwrap()), [0]);
    assert_eq!(server.client.document(&index, "k").await.unwrap().unwrap(), merged);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_tombstone_empties_a_guarded_document_for_good() {
    let server = opensearch().await;
    let index = unique("updates");
    let sink = sink(&server.url, &[("INDEX", &index), ("ACTION", "update")]);
    let records = [record(0, "k", r#"{"a":1}"#), tombstone(1, "k")];
    write(&sink, &records).await.unwrap();
    write(&sink, &records[..1]).await.unwrap();
    let empty = json!({ "connect_offsets": { "test-0": 1 } });
    assert_eq!(server.client.document(&index, "k").await.unwrap().unwrap(), empty, "a late update is no resurrection");
    write(&sink, &[record(2, "k", r#"{"b":1}"#)]).await.unwrap();
    let again = json!({ "b": 1, "connect_offsets": { "test-0": 2 } });
    assert_eq!(server.client.document(&index, "k").await.unwrap().unwrap(), again);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn several_topics_feed_one_document() {
    let server = opensearch().await;
    let index = unique("updates");
    let sink = sink(&server.url, &[("INDEX", &index), ("ACTION", "update")]);
    write(&sink, &[record(900, "k", r#"{"name":"n"}"#)]).await.unwrap();
    let mut other = record(3, "k", r#"{"price":5}"#);
    other.topic = "my.prices".into();
    assert!(superseded(&write(&sink, &[other.clone()]).await.unwrap()).is_empty(), "its offsets are its own");
    assert_eq!(superseded(&write(&sink, &[other]).await.unwrap()), [0]);
    let document = server.client.document(&index, "k").await.unwrap().unwrap();
    assert_eq!(document, json!({ "name": "n", "price": 5, "connect_offsets": { "test-0": 900, "my.prices-0": 3 } }));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_record_whose_predecessor_was_refused_waits_for_it() {
    let server = opensearch().await;
    let (index, closed) = (unique("updates"), unique("closed"));
    server.client.ask(Put, &closed, "").await.unwrap();
    server.client.ask(Post, &format!("{closed}/_close"), "").await.unwrap();
    let sink = sink(&server.url, &[("INDEX", &index), ("ACTION", "update")]);
    let records = [record(0, "k", r#"{"a":1}"#), record(1, "k", r#"{"b":2}"#), record(2, "l", r#"{"c":3}"#)];
    // As a server does that has no time for one item and some for the next.
    let mut refused = batch(&sink, &records);
    refused.items[0].op.line = format!("{{\"update\":{{\"_index\":\"{closed}\",\"_id\":\"k\"}}}}\n").into();
    let outcome = sink.write(&refused).await.unwrap();
    assert_eq!(outcome.into_sorted(), [(0, Verdict::Retry), (1, Verdict::Retry)]);
    assert_eq!(server.client.document(&index, "k").await.unwrap(), None);
    // Had it been taken, the guard would let the first one pass no more.
    assert_eq!(write(&sink, &records[..2]).await.unwrap().exceptions(), []);
    let both = json!({ "a": 1, "b": 2, "connect_offsets": { "test-0": 1 } });
    assert_eq!(server.client.document(&index, "k").await.unwrap().unwrap(), both);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_script_of_ones_own_counts_each_record_once() {
    let server = opensearch().await;
    let index = unique("updates");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"def n = doc.get('n');\ndoc.put('n', (n == null ? 0 : n) + value.add);").unwrap();
    let path = file.path().to_str().unwrap();
    let sink = sink(&server.url, &[("INDEX", &index), ("ACTION", "script"), ("SCRIPT_FILE", path)]);
    let records: Vec<_> = (0..10).map(|offset| record(offset, "k", r#"{"add":2}"#)).collect();
    write(&sink, &records).await.unwrap();
    write(&sink, &records[3..]).await.unwrap();
    assert_eq!(server.client.document(&index, "k").await.unwrap().unwrap()["n"], 20);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_update_without_guard_merges_and_deletes() {
    let server = opensearch().await;
    let index = unique("updates");
    let sink = sink(&server.url, &[("INDEX", &index), ("ACTION", "update"), ("UPDATE_GUARD", "none")]);
    write(&sink, &[record(0, "k", r#"{"a":1}"#), record(1, "k", r#"{"b":2}"#), record(2, "gone", "{}")]).await.unwrap();
    write(&sink, &[tombstone(3, "gone")]).await.unwrap();
    assert_eq!(server.client.document(&index, "k").await.unwrap().unwrap(), json!({ "a": 1, "b": 2 }));
    assert_eq!(server.client.document(&index, "gone").await.unwrap(), None);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_script_that_the_cluster_has_no_time_to_compile_waits() {
    let server = opensearch().await;
    let index = unique("updates");
    let limit = async |rate: serde_json::Value| {
        let settings = json!({ "transient": { "script.context.update.max_compilations_rate": rate } });
        server.client.ask(Put, "_cluster/settings", settings.to_string()).await.unwrap();
    };
    let scripted = |name: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "doc.put('{name}', value.n);").unwrap();
        let path = file.path().to_str().unwrap();
        sink(&server.url, &[("INDEX", &index), ("ACTION", "script"), ("SCRIPT_FILE", path)])
    };
    let (one, two) = (scripted("one"), scripted("two"));
    limit("1/60m".into()).await;
    assert_eq!(write(&one, &[record(0, "a", r#"{"n":1}"#)]).await.unwrap().exceptions(), []);
    let records = [record(0, "b", r#"{"n":2}"#)];
    assert_eq!(write(&two, &records).await.unwrap().exceptions(), [(0, Verdict::Retry)], "others used it up");
    limit(serde_json::Value::Null).await;
    assert_eq!(write(&two, &records).await.unwrap().exceptions(), []);
    assert_eq!(server.client.document(&index, "b").await.unwrap().unwrap()["two"], 2);
}
