//! Limits of the server: requests that are too large, too much at once, a bad action that poisons a request.

use std::time::{Duration, Instant};

use connect_core::{Record, Sink, SinkError, Verdict};
use elasticsearch::http::Method::Get;
use futures::future::join_all;
use sink_elasticsearch::ElasticsearchSink;
use xtask::elasticsearch_client::Client;
use xtask::services::elasticsearch::{VERSION_8, VERSION_9};
use xtask::services::{Elasticsearch, ElasticsearchOptions};

use crate::load::{Load, dice};
use crate::support::{batch, every_version, record, rejected, sink, unique, write};

fn documents(from: i64, count: i64, bytes: usize) -> Vec<Record> {
    let value = format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes));
    (from..from + count).map(|offset| record(offset, &format!("k{offset}"), &value)).collect()
}

/// Writes as the framework does: again, what has to be sent again. Returns the offsets of what was rejected, and why.
async fn write_all(sink: &ElasticsearchSink, records: &[Record]) -> Vec<(i64, String)> {
    const PATIENCE: Duration = Duration::from_secs(180);
    let begun = Instant::now();
    let mut rejected = Vec::new();
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
                batch.items = retry;
            }
            Err(SinkError::Transient { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if !batch.items.is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{} documents don't get in", batch.items.len());
            // The framework's first back-off.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    rejected
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_small_server_gets_all_documents_and_none_is_lost() {
    limited(VERSION_9).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn nightly_a_small_server_of_the_older_version_gets_all_documents_and_none_is_lost() {
    limited(VERSION_8).await;
}

async fn limited(version: &str) {
    let options = ElasticsearchOptions { version: Some(version.to_owned()), ..ElasticsearchOptions::limited() };
    let server = Elasticsearch::start(options).await.unwrap();
    let client = server.client().unwrap();

    // 413: two megabytes in one batch where the server takes half of one; the size is found, and only what is too large for
    // itself is rejected.
    let index = unique("large");
    let large = sink(&server.url(), &[("INDEX", &index), ("MAX_IN_FLIGHT", "1")]);
    let mut records = documents(0, 100, 20_000);
    records[17] = documents(17, 1, 600_000).remove(0);
    let found = write_all(&large, &records).await;
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [17], "{found:?}");
    assert!(found[0].1.contains("http.max_content_length"), "{found:?}");
    assert_eq!(client.count(&index).await.unwrap(), 99);

    // 429: sixteen writers at once, where the server takes a quarter of a megabyte of work. Everything arrives, nothing is rejected.
    let index = unique("storm");
    let storm = sink(&server.url(), &[("INDEX", &index), ("MAX_IN_FLIGHT", "16")]);
    let before = refused(&client).await;
    join_all((0..16).map(|writer| {
        let storm = &storm;
        async move { assert_eq!(write_all(storm, &documents(writer * 1_000, 700, 500)).await, []) }
    }))
    .await;
    assert_eq!(client.count(&index).await.unwrap(), 16 * 700);
    assert!(refused(&client).await > before, "there was no storm");

    // The same with the whole connector, updates and deletes.
    let load = Load::new(20_000, &dice(), &server.url()).await;
    let load = load.set("CONNECT_ELASTICSEARCH_MAX_IN_FLIGHT", "16").set("CONNECT_BATCH_RECORDS", "4000");
    let before = refused(&client).await;
    load.ends_right(load.start(), &client).await;
    assert!(refused(&client).await > before, "there was no storm");
}

/// How often the server had too much to do for a request or a part of one.
async fn refused(client: &Client) -> u64 {
    let stats = client.ask(Get, "_nodes/stats/indexing_pressure", "").await.unwrap();
    let nodes = stats["nodes"].as_object().unwrap().values();
    nodes
        .flat_map(|node| node["indexing_pressure"]["memory"]["total"].as_object().unwrap())
        .filter(|(name, _)| name.ends_with("_rejections"))
        .map(|(_, count)| count.as_u64().unwrap())
        .sum()
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn one_bad_action_is_found_among_a_hundred() {
    every_version(async |server| {
        let index = unique("poisoned");
        let indexing = sink(&server.url, &[("INDEX", &index)]);
        let mut batch = batch(&indexing, &documents(0, 100, 10));
        // Two that `prepare` never makes: the server refuses the whole request for either.
        for at in [37, 99] {
            batch.items[at].op.line = format!("{{\"index\":{{\"_index\":\"{index}\",\"_id\":\"\"}}}}\n").into();
        }
        let found = rejected(indexing.write(&batch).await.unwrap());
        assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [37, 99], "{found:?}");
        assert_eq!(server.client.count(&index).await.unwrap(), 98);

        // An update is read before anything is done, so one that isn't JSON to the server poisons its request, too.
        let index = unique("poisoned");
        let updating = sink(&server.url, &[("INDEX", &index), ("ACTION", "update"), ("UPDATE_GUARD", "none")]);
        let mut records = documents(0, 100, 10);
        records[61].value = Some(r#"{"twice":1,"twice":2}"#.into());
        let found = rejected(write(&updating, &records).await.unwrap());
        assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [61], "{found:?}");
        assert_eq!(server.client.count(&index).await.unwrap(), 99);
    })
    .await;
}
