//! Where documents go: indices, aliases, data streams, routing, pipelines, index templates.

use std::io::Write as _;

use connect_core::{Sink, SinkError, Verdict};
use elasticsearch::http::Method::{Get, Post, Put};

use crate::support::{
    every_elasticsearch, every_version, record, rejected, sink, superseded, tombstone, unique, write,
};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_index_for_every_day_and_a_routing_for_every_user() {
    every_version(async |server| {
        let prefix = unique("logs");
        let template = format!("{prefix}-{{timestamp:%Y.%m.%d}}");
        let sink = sink(&server.url, &[("INDEX", &template), ("ROUTING", "{value.user}")]);
        let mut next_day = record(1, "b", r#"{"user":"u2"}"#);
        next_day.timestamp += 86_400_000;
        write(&sink, &[record(0, "a", r#"{"user":"u1"}"#), next_day]).await.unwrap();
        for (day, id, routing) in [("14", "a", "u1"), ("15", "b", "u2")] {
            let path = format!("{prefix}-2023.11.{day}/_doc/{id}?routing={routing}");
            assert_eq!(server.client.ask(Get, &path, "").await.unwrap()["_routing"], routing);
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_alias_that_is_required_is_waited_for() {
    every_version(async |server| {
        let alias = unique("alias");
        let sink = sink(&server.url, &[("INDEX", &alias), ("REQUIRE_ALIAS", "true")]);
        // A delete would make an index of that name, so nothing begins before the alias is there.
        assert!(matches!(sink.check().await, Err(SinkError::Transient { message, .. }) if message.contains(&alias)));
        let outcome = write(&sink, &[record(0, "a", "{}")]).await.unwrap();
        assert_eq!(outcome.exceptions(), [(0, Verdict::Retry)], "no record is to blame");
        server.client.ask(Put, &format!("{alias}-1"), format!(r#"{{"aliases":{{"{alias}":{{}}}}}}"#)).await.unwrap();
        assert_eq!(write(&sink, &[record(0, "a", "{}")]).await.unwrap().exceptions(), []);
        sink.check().await.unwrap();
        assert_eq!(server.client.count(&format!("{alias}-1")).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_data_stream_takes_creates_with_a_timestamp() {
    every_version(async |server| {
        let stream = unique("stream");
        let template = format!(r#"{{"index_patterns":["{stream}"],"data_stream":{{}},"priority":500}}"#);
        server.client.ask(Put, &format!("_index_template/{stream}"), template).await.unwrap();
        let settings = [
            ("INDEX", stream.as_str()),
            ("ACTION", "create"),
            ("ID", "{topic}+{partition}+{offset}"),
            ("TIMESTAMP_FIELD", "@timestamp"),
        ];
        let records: Vec<_> = (0..5).map(|offset| record(offset, "k", r#"{"n":1}"#)).collect();
        let streaming = sink(&server.url, &settings);
        assert_eq!(write(&streaming, &records).await.unwrap().exceptions(), []);
        assert_eq!(superseded(&write(&streaming, &records).await.unwrap()), [0, 1, 2, 3, 4], "a replay adds nothing");
        assert_eq!(server.client.count(&stream).await.unwrap(), 5);
        let indexing = sink(&server.url, &[("INDEX", stream.as_str()), ("VERSION", "none")]);
        let reasons = rejected(write(&indexing, &records[..1]).await.unwrap());
        assert!(reasons[0].1.contains("set CONNECT_ELASTICSEARCH_ACTION=create"), "{reasons:?}");
    })
    .await;
}

/// The node of OpenSearch that the tests have runs no pipelines.
#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_pipeline_is_used_and_a_missing_one_is_no_records_fault() {
    every_elasticsearch(async |server| {
        let (index, pipeline) = (unique("piped"), unique("pipeline"));
        let settings = [("INDEX", index.as_str()), ("PIPELINE", pipeline.as_str())];
        let piped = sink(&server.url, &settings);
        assert!(matches!(piped.check().await, Err(SinkError::Fatal(message)) if message.contains(&pipeline)));
        let outcome = write(&piped, &[record(0, "a", "{}")]).await.unwrap();
        assert_eq!(outcome.exceptions(), [(0, Verdict::Retry)]);
        server.client.ask(Put, &format!("_ingest/pipeline/{pipeline}"), r#"{"processors":[]}"#).await.unwrap();
        piped.check().await.unwrap();
        assert_eq!(write(&piped, &[record(0, "a", "{}")]).await.unwrap().exceptions(), []);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_index_template_is_put_in_place_once_and_a_newer_one_stays() {
    every_version(async |server| {
        let (index, name) = (unique("templated"), unique("template"));
        let path = format!("_index_template/{name}");
        let put = async |version: u32| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let template = format!(
                r#"{{"index_patterns":["{index}*"],"version":{version},"template":{{"mappings":{{"properties":{{"v{version}":{{"type":"keyword"}}}}}}}}}}"#
            );
            file.write_all(template.as_bytes()).unwrap();
            let file_name = file.path().to_str().unwrap();
            let sink = sink(&server.url, &[("INDEX", &index), ("TEMPLATE_FILE", file_name), ("TEMPLATE_NAME", &name)]);
            sink.check().await.unwrap();
            write(&sink, &[record(version.into(), "k", "{}")]).await.unwrap();
            server.client.ask(Get, &path, "").await.unwrap()["index_templates"][0]["index_template"]["version"].clone()
        };
        assert_eq!(put(2).await, 2);
        assert_eq!(put(1).await, 2);
        assert_eq!(put(3).await, 3);
        let mapping = server.client.ask(Get, &format!("{index}/_mapping"), "").await.unwrap();
        assert_eq!(mapping[&index]["mappings"]["properties"]["v2"]["type"], "keyword", "it was there before the index");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn reprocessing_after_a_mended_mapping_writes_everything_again_and_nothing_older() {
    every_version(async |server| {
        let index = unique("rewrite");
        let records = [record(0, "a", r#"{"n":1}"#), record(1, "b", r#"{"n":1}"#), record(2, "a", r#"{"n":2}"#)];
        write(&sink(&server.url, &[("INDEX", &index)]), &records).await.unwrap();
        let again = sink(&server.url, &[("INDEX", &index), ("REWRITE", "true")]);
        assert_eq!(superseded(&write(&again, &records).await.unwrap()), [0], "only what a later record covered");
        let document = server.client.ask(Get, &format!("{index}/_doc/a"), "").await.unwrap();
        assert_eq!((&document["_source"]["n"], &document["_version"]), (&2.into(), &2.into()));
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_topic_made_anew_is_refused() {
    every_version(async |server| {
        let (index, topics) = (unique("life"), unique("topics"));
        let assigned = |life: u8| connect_core::Assigned {
            topic_id: Some([life; 16]),
            ..connect_core::Assigned::new(connect_core::TopicPartition::new("test", 0))
        };
        let by_offset = sink(&server.url, &[("INDEX", &index), ("TOPICS_INDEX", &topics)]);
        for life in [1, 1] {
            by_offset.resume(&assigned(life)).await.unwrap();
        }
        let error = by_offset.resume(&assigned(2)).await.unwrap_err();
        assert!(matches!(&error, SinkError::Fatal(message) if message.contains("VERSION=timestamp")), "{error}");
        let by_time = sink(&server.url, &[("INDEX", &index), ("TOPICS_INDEX", &topics), ("VERSION", "timestamp")]);
        by_time.resume(&assigned(2)).await.unwrap();
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn gzip_arrives_as_what_it_was() {
    every_version(async |server| {
        let index = unique("gzip");
        let sink = sink(&server.url, &[("INDEX", &index), ("GZIP", "true")]);
        write(&sink, &[record(0, "a", r#"{"n":1}"#), record(1, "b", "{}"), tombstone(2, "b")]).await.unwrap();
        server.client.ask(Post, &format!("{index}/_refresh"), "").await.unwrap();
        assert_eq!(server.client.count(&index).await.unwrap(), 1);
        assert_eq!(server.client.document(&index, "a").await.unwrap().unwrap()["n"], 1);
    })
    .await;
}
