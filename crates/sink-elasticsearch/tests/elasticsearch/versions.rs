//! Versions that are no offsets: of several partitions that write one document, the newest record wins.

use connect_core::{Header, Record};

use crate::support::{every_version, record, sink, superseded, tombstone, unique, write};

/// A record of that time, which its header says, too.
fn at(version: i64, record: Record) -> Record {
    let header = Header { key: "v".into(), value: Some(version.to_string().into()) };
    Record { timestamp: version, headers: vec![header], ..record }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn with_a_version_by_time_or_header_the_newest_record_wins_whatever_its_offset() {
    every_version(async |server| {
        for version in ["timestamp", "header:v"] {
            let index = unique("versions");
            let sink = sink(&server.url, &[("INDEX", &index), ("VERSION", version)]);
            let written = async |record| superseded(&write(&sink, &[record]).await.unwrap()).is_empty();
            let n = async || Some(server.client.document(&index, "k").await.unwrap()?["n"].as_i64().unwrap());
            assert!(written(at(50, record(900, "k", r#"{"n":1}"#))).await);
            assert!(!written(at(49, record(901, "k", r#"{"n":2}"#))).await, "{version}: it is older");
            assert_eq!(n().await, Some(1));
            assert!(written(at(51, record(3, "k", r#"{"n":3}"#))).await, "{version}: another partition");
            assert!(written(at(51, record(4, "k", r#"{"n":4}"#))).await, "{version}: the later one of two");
            assert_eq!(n().await, Some(4));
            assert!(!written(at(50, tombstone(5, "k"))).await, "{version}: an older delete");
            assert!(written(at(52, tombstone(6, "k"))).await);
            assert!(!written(at(51, record(902, "k", r#"{"n":5}"#))).await, "{version}: no resurrection");
            assert_eq!(n().await, None);
        }
    })
    .await;
}
