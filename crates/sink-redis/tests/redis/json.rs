//! JSON documents, on a server with RedisJSON.

use connect_core::{Outcome, Resume, Sink};
use xtask::services::redis::build;

use crate::support::{Server, assigned, batch, fatal, record, rejection, start, superseded, tombstone, write};

const JSON: (&str, &str) = ("CONNECT_REDIS_COMMAND", "json.set");

/// A server with the module; none where the build of this run is too old for it.
async fn server() -> Option<Server> {
    if std::env::var(build::VARIABLE).as_deref() == Ok("redis-6.2") {
        println!("Redis 6.2 can't load the module");
        return None;
    }
    let module = build::json_module().unwrap();
    Some(Server::start_with(&["--loadmodule", module.to_str().unwrap()]).await)
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn write_again_replay_and_tombstone() {
    let Some(server) = server().await else { return };
    for (settings, seen) in [
        (&[JSON][..], [r#"{"a":1}"#, "[1,2]", "nil"]),
        (&[JSON, ("CONNECT_REDIS_CONDITION", "nx")], [r#"{"a":1}"#, r#"{"a":1}"#, "nil"]),
        (&[JSON, ("CONNECT_REDIS_CONDITION", "xx")], ["nil", "nil", "nil"]),
        (&[JSON, ("CONNECT_REDIS_TTL", "1000000h")], [r#"{"a":1}"#, "[1,2]", "nil"]),
        (&[JSON, ("CONNECT_REDIS_COLLAPSE", "true")], [r#"{"a":1}"#, "[1,2]", "nil"]),
    ] {
        server.ask("FLUSHALL").await;
        let sink = server.sink_with(settings);
        assert_eq!(sink.check().await, Ok(()), "{settings:?}");
        start(&sink).await;
        let records = [record(0, "k", r#"{"a":1}"#), record(1, "k", "[1,2]")];
        assert_eq!(write(&sink, 0, &records[..1]).await, Outcome::written());
        assert_eq!(server.ask("JSON.GET k").await, seen[0], "{settings:?}");
        assert_eq!(write(&sink, 1, &records[1..]).await, Outcome::written());
        assert_eq!(server.ask("JSON.GET k").await, seen[1], "{settings:?}");
        let again = server.sink_with(settings);
        assert_eq!(again.resume(&assigned(Some(0))).await, Ok(Resume::At(2)));
        assert_eq!(superseded(&again.write(&batch(&again, Some(0), 0, &records)).await.unwrap()), 2);
        assert_eq!(server.ask("JSON.GET k").await, seen[1], "{settings:?}");
        assert_eq!(write(&again, 2, &[tombstone(2, "k")]).await, Outcome::written());
        assert_eq!(server.ask("JSON.GET k").await, seen[2], "{settings:?}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_part_of_a_document_is_written_where_the_document_is() {
    let Some(server) = server().await else { return };
    let sink = server.sink_with(&[JSON, ("CONNECT_REDIS_PATH", "$.cart")]);
    start(&sink).await;
    server.ask(r#"JSON.SET k $ {"user":7}"#).await;
    let records = [record(0, "k", "[1]"), record(1, "none", "[2]"), record(2, "k", "[3]")];
    let outcome = write(&sink, 0, &records).await;
    let (index, reason) = rejection(&outcome);
    assert_eq!(index, 1);
    assert!(reason.contains("JSON document"), "{reason}");
    assert_eq!(server.ask("JSON.GET k").await, r#"{"user":7,"cart":[1]}"#);
    assert_eq!(server.stored().await, "1");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_can_be_no_document_is_a_rejection() {
    let Some(server) = server().await else { return };
    let sink = server.sink_with(&[JSON]);
    start(&sink).await;
    for value in ["", "{", "{\"a\":1}x", "text", "\u{feff}{}", "{'a':1}"] {
        let rejection = sink.prepare(&record(0, "k", value)).unwrap_err().to_string();
        assert!(rejection.contains("{value} is not valid JSON"), "{rejection}");
    }
    server.ask("RPUSH list x").await;
    // The last three are valid JSON, and too much for the module alone.
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for (key, value) in [("list", "{}"), ("deep", &deep), ("large", "1e999"), ("half", r#""\ud800""#)] {
        let outcome = write(&sink, 0, &[record(0, key, value.to_owned())]).await;
        assert_eq!(rejection(&outcome).0, 0, "{key}");
        assert_eq!(server.stored().await, "0", "{key}");
    }
    assert_eq!(server.ask("LRANGE list 0 -1").await, "x");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_path_that_the_module_does_not_understand_is_fatal() {
    let Some(server) = server().await else { return };
    let sink = server.sink_with(&[JSON, ("CONNECT_REDIS_PATH", "$..[[")]);
    start(&sink).await;
    server.ask("JSON.SET k $ {}").await;
    let result = sink.write(&batch(&sink, Some(0), 0, &[record(0, "k", "1")])).await;
    assert!(fatal(result).contains("CONNECT_REDIS_PATH"));
}
