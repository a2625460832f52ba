//! Limits of the server: requests that are too large, too much at once, a bad action that poisons a request.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use connect_core::{Record, Sink, SinkError, Verdict};
use futures::future::join_all;
use sink_elasticsearch::ElasticsearchSink;
use xtask::services::{Elasticsearch, ElasticsearchOptions};

use crate::support::{batch, elasticsearch_8, elasticsearch_9, record, rejected, sink, unique};

fn documents(from: i64, count: i64, bytes: usize) -> Vec<Record> {
    let value = format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes));
    (from..from + count).map(|offset| record(offset, &format!("k{offset}"), &value)).collect()
}

/// Writes as the framework does: again, what has to be sent again. Returns how often that was, and the offsets and
/// reasons of what was rejected.
async fn write_all(sink: &ElasticsearchSink, records: &[Record]) -> (usize, Vec<(i64, String)>) {
    let (mut again, mut rejected) = (0, Vec::new());
    let mut batch = batch(sink, records);
    while !batch.items.is_empty() {
        match sink.write(&batch).await {
            Ok(outcome) => {
                let mut retry = Vec::new();
                for (index, verdict) in outcome.into_sorted() {
                    match verdict {
                        Verdict::Retry => retry.push(batch.items[index].clone()),
                        Verdict::Rejected(reason) => rejected.push((batch.items[index].offset, reason.to_string())),
                        Verdict::Superseded | Verdict::Expired => {}
                    }
                }
                again += usize::from(!retry.is_empty());
                batch.items = retry;
            }
            Err(SinkError::Transient { .. }) => again += 1,
            Err(error) => panic!("{error}"),
        }
        if !batch.items.is_empty() {
            // The framework's first back-off.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    (again, rejected)
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_small_server_gets_all_documents_and_none_is_lost() {
    let server = Elasticsearch::start(ElasticsearchOptions::limited()).await.unwrap();
    let client = server.client().unwrap();

    // 413: three megabytes in one batch where the server takes one; the size is found, and only what is too large for
    // itself is rejected.
    let index = unique("large");
    let large = sink(&server.url(), &[("INDEX", &index), ("MAX_IN_FLIGHT", "1")]);
    let mut records = documents(0, 30, 100_000);
    records[17] = documents(17, 1, 1_200_000).remove(0);
    let (_, found) = write_all(&large, &records).await;
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [17], "{found:?}");
    assert!(found[0].1.contains("http.max_content_length"), "{found:?}");
    assert_eq!(client.count(&index).await.unwrap(), 29);

    // 429: sixteen writers at once, where the server takes 256 KiB of work. Everything arrives, nothing is rejected.
    let index = unique("storm");
    let storm = sink(&server.url(), &[("INDEX", &index), ("MAX_IN_FLIGHT", "16")]);
    let refused = AtomicUsize::new(0);
    join_all((0..16).map(|writer| {
        let (storm, refused) = (&storm, &refused);
        async move {
            let (again, bad) = write_all(storm, &documents(writer * 1_000, 300, 500)).await;
            assert_eq!(bad, []);
            refused.fetch_add(again, Relaxed);
        }
    }))
    .await;
    assert_eq!(client.count(&index).await.unwrap(), 16 * 300);
    println!("sent again: {}", refused.load(Relaxed));
    assert!(refused.load(Relaxed) > 0, "there was no storm");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn nightly_one_bad_action_is_found_among_a_hundred() {
    for server in [elasticsearch_9().await, elasticsearch_8().await] {
        let index = unique("poisoned");
        let sink = sink(&server.url, &[("INDEX", &index)]);
        let mut batch = batch(&sink, &documents(0, 100, 10));
        // Two that `prepare` never makes: the server refuses the whole request for either.
        for at in [37, 99] {
            batch.items[at].op.line = format!("{{\"index\":{{\"_index\":\"{index}\",\"_id\":\"\"}}}}\n").into();
        }
        let found = rejected(sink.write(&batch).await.unwrap());
        assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [37, 99], "{found:?}");
        assert_eq!(server.client.count(&index).await.unwrap(), 98);
    }
}
