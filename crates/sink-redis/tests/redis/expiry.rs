//! When keys end.

use connect_core::{Header, Outcome, Record, Sink, Verdict};

use crate::support::{Server, TIMESTAMP, batch, record, start, tombstone, write};

const FUTURE: i64 = 4_000_000_000_000;

fn at(timestamp: i64, record: Record) -> Record {
    Record { timestamp, ..record }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_key_lives_as_long_as_its_record_says() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_TTL", "1h")]);
    start(&sink).await;
    server.ask("SET gone former").await;
    let records = [
        at(FUTURE, record(0, "kept", "1")),
        // An hour after it lies in the past: the key ends absent, its former value too.
        at(TIMESTAMP, record(1, "gone", "2")),
        at(FUTURE, record(2, "deleted", "3")),
        at(FUTURE, tombstone(3, "deleted")),
    ];
    let outcome = sink.write(&batch(&sink, Some(0), 0, &records)).await.unwrap();
    assert_eq!(outcome.exceptions(), [(1, Verdict::Expired)]);
    assert_eq!(server.ask("PEXPIRETIME kept").await, (FUTURE + 3_600_000).to_string());
    assert_eq!(server.ask("MGET kept gone deleted").await, "1 nil nil");
    assert_eq!(server.stored().await, "4");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_is_not_to_be_written_over_outlives_a_record_that_came_too_late() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_TTL", "1h"), ("CONNECT_REDIS_CONDITION", "nx")]);
    start(&sink).await;
    server.ask("SET there former").await;
    let records = [record(0, "there", "late"), record(1, "absent", "late")];
    let outcome = sink.write(&batch(&sink, Some(0), 0, &records)).await.unwrap();
    assert_eq!(outcome.exceptions(), [(0, Verdict::Expired), (1, Verdict::Expired)]);
    assert_eq!(server.ask("MGET there absent").await, "former nil");
    // With xx it is as without a condition.
    server.ask("FLUSHALL").await;
    let sink = server.sink_with(&[("CONNECT_REDIS_TTL", "1h"), ("CONNECT_REDIS_CONDITION", "xx")]);
    start(&sink).await;
    server.ask("SET there former").await;
    let outcome = sink.write(&batch(&sink, Some(0), 0, &records)).await.unwrap();
    assert_eq!(outcome.exceptions(), [(0, Verdict::Expired), (1, Verdict::Expired)]);
    assert_eq!(server.ask("MGET there absent").await, "nil nil");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_replay_does_not_prolong_a_life() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_TTL", "1h")]);
    start(&sink).await;
    let records = [at(FUTURE, record(0, "k", "1"))];
    write(&sink, 0, &records).await;
    server.ask("FLUSHALL").await;
    start(&sink).await;
    write(&sink, 0, &records).await;
    assert_eq!(server.ask("PEXPIRETIME k").await, (FUTURE + 3_600_000).to_string());
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn each_event_renews_a_life() {
    let server = Server::start().await;
    for (command, value) in [
        ("set", "1"),
        ("incrby", "1"),
        ("hset", r#"{"a":1}"#),
        ("rpush", "1"),
        ("sadd", "1"),
        ("zadd", "1"),
        ("pfadd", "1"),
    ] {
        server.ask("FLUSHALL").await;
        let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", command), ("CONNECT_REDIS_TTL", "30m")]);
        assert_eq!(sink.check().await, Ok(()));
        start(&sink).await;
        for offset in 0..3 {
            let timestamp = FUTURE + offset * 60_000;
            assert_eq!(write(&sink, offset, &[at(timestamp, record(offset, "k", value))]).await, Outcome::written());
            assert_eq!(server.ask("PEXPIRETIME k").await, (timestamp + 1_800_000).to_string(), "{command}");
        }
        let outcome = write(&sink, 3, &[record(3, "k", value)]).await;
        assert_eq!(outcome.exceptions(), [(0, Verdict::Expired)], "{command}");
        assert_eq!(server.ask("EXISTS k").await, "0", "{command}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn counted_from_now_a_header_or_a_path() {
    let server = Server::start().await;
    for command in ["set", "incrby"] {
        server.ask("FLUSHALL").await;
        let sink = server.sink_with(&[
            ("CONNECT_REDIS_COMMAND", command),
            ("CONNECT_REDIS_TTL", "1h"),
            ("CONNECT_REDIS_TTL_FROM", "now"),
        ]);
        start(&sink).await;
        assert_eq!(write(&sink, 0, &[record(0, "k", "1")]).await, Outcome::written());
        let left: i64 = server.ask("PTTL k").await.parse().unwrap();
        assert!(left > 0 && left <= 3_600_000, "{left}");
    }
    for from in ["header:ends", "value.ends"] {
        server.ask("FLUSHALL").await;
        let sink = server.sink_with(&[("CONNECT_REDIS_TTL_FROM", from)]);
        start(&sink).await;
        let ends = Header { key: "ends".into(), value: Some(FUTURE.to_string().into()) };
        let value = format!("{{\"ends\":{FUTURE}}}");
        write(&sink, 0, &[Record { headers: vec![ends], ..record(0, "k", value) }]).await;
        assert_eq!(server.ask("PEXPIRETIME k").await, FUTURE.to_string(), "{from}");
        let rejection = sink.prepare(&record(1, "k", "{}")).unwrap_err().to_string();
        assert!(rejection.contains("ends}"), "{rejection}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn keep_leaves_a_life_as_it_is() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_TTL", "keep")]);
    start(&sink).await;
    server.ask(&format!("SET k old PXAT {FUTURE}")).await;
    write(&sink, 0, &[record(0, "k", "1"), record(1, "l", "2")]).await;
    assert_eq!(server.ask("MGET k l").await, "1 2");
    assert_eq!(server.ask("PEXPIRETIME k").await, FUTURE.to_string());
    assert_eq!(server.ask("PEXPIRETIME l").await, "-1");
    // Without `keep` a value is there for ever.
    let plain = server.sink();
    let mut next = batch(&plain, Some(2), 2, &[record(2, "k", "3")]);
    next.next = 3;
    plain.write(&next).await.unwrap();
    assert_eq!(server.ask("PEXPIRETIME k").await, "-1");
}
