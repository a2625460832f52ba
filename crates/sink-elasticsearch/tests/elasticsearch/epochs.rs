//! A new epoch: what a replay writes again, and who is left behind.

use connect_core::SinkError;
use elasticsearch::http::Method::Get;

use crate::load::{Load, dice};
use crate::support::{
    Shared, elasticsearch_9, every_version, opensearch, record, sink_in_epoch, superseded, tombstone, unique, write,
};

/// As docs/operations.md has it, with the connector itself.
#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_reset_to_a_new_epoch_writes_the_topic_again() {
    let server = elasticsearch_9().await;
    let load = Load::new(2_000, &dice(), &server.url).await;
    load.ends_right(load.start(), &server.client).await;
    assert!(load.call(&["offsets", "reset", "--to", "earliest", "--new-epoch"]).await.success(), "{}", load.logged());
    assert!(load.logged().contains("set CONNECT_EPOCH=1"), "{}", load.logged());
    assert_eq!(load.call(&[]).await.code(), Some(1), "Kafka's commits know of it");
    assert!(load.logged().contains("offsets were committed in epoch 1"), "{}", load.logged());

    let load = load.set("CONNECT_EPOCH", "1");
    load.ends_right(load.start(), &server.client).await;
    let path = format!("{}/_search?size=10000&version=true&_source=false", load.topic);
    let found = server.client.ask(Get, &path, "").await.unwrap();
    let hits = found["hits"]["hits"].as_array().unwrap();
    assert!(hits.iter().all(|hit| hit["_version"].as_i64().unwrap() >> 48 == 1), "all was written again");

    // The setting is taken back, and what was committed is gone: the documents know of it, too.
    let load = load.set("CONNECT_EPOCH", "0").set("CONNECT_KAFKA_GROUP", &unique("forgotten"));
    assert_eq!(load.call(&[]).await.code(), Some(1), "{}", load.logged());
    assert!(load.logged().contains("there are documents of epoch 1"), "{}", load.logged());
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_replay_in_a_new_epoch_writes_everything_again_and_stops_who_was_left_behind() {
    every_version(async |server| replayed(server, "index").await).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_replay_in_a_new_epoch_updates_everything_again_and_stops_who_was_left_behind() {
    replayed(opensearch().await, "update").await;
}

async fn replayed(server: &Shared, action: &str) {
    let index = unique("epochs");
    let in_epoch = |epoch| sink_in_epoch(epoch, &server.url, &[("INDEX", &index), ("ACTION", action)]);
    let number = async |id: &str| {
        let document = server.client.document(&index, id).await.unwrap();
        document.and_then(|document| document.get("n")?.as_i64())
    };
    let old = in_epoch(0);
    let before = [record(1_000, "k", r#"{"n":1}"#), record(1_001, "gone", r#"{"n":1}"#), tombstone(1_002, "gone")];
    assert_eq!(write(&old, &before).await.unwrap().exceptions(), []);

    // The same topic from its beginning: an epoch counts more than an offset.
    let replay = [record(0, "gone", r#"{"n":2}"#), record(1, "k", r#"{"n":2}"#)];
    assert_eq!(superseded(&write(&old, &replay).await.unwrap()), [0, 1], "{action}");
    let new = in_epoch(1);
    assert_eq!(write(&new, &replay).await.unwrap().exceptions(), [], "{action}");
    assert_eq!((number("k").await, number("gone").await), (Some(2), Some(2)), "{action}");
    // Within it everything counts once again, and it is removed for good.
    assert_eq!(superseded(&write(&new, &replay).await.unwrap()), [0, 1], "{action}");
    assert_eq!(write(&new, &[tombstone(2, "gone")]).await.unwrap().exceptions(), []);

    for late in [record(1_003, "k", r#"{"n":3}"#), tombstone(1_003, "k"), record(1_003, "gone", r#"{"n":3}"#)] {
        let error = write(&old, &[late]).await.unwrap_err();
        assert!(matches!(&error, SinkError::Fatal(why) if why.contains("Set CONNECT_EPOCH=1")), "{action}: {error:?}");
    }
    assert_eq!((number("k").await, number("gone").await), (Some(2), None), "{action}: it changed nothing");
}
