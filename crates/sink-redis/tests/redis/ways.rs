//! Choices about how a batch is written.

use connect_core::{Outcome, Resume, Sink, Verdict};

use crate::support::{Server, assigned, batch, fatal, record, start, superseded, tombstone, write};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn collapse_sends_only_the_last_write_of_a_key() {
    let server = Server::start().await;
    for ttl in [&[][..], &[("CONNECT_REDIS_TTL", "1000000h")]] {
        server.ask("FLUSHALL").await;
        let mut settings = vec![("CONNECT_REDIS_COLLAPSE", "true")];
        settings.extend_from_slice(ttl);
        let sink = server.sink_with(&settings);
        start(&sink).await;
        server.ask("CONFIG RESETSTAT").await;
        let records = [
            record(0, "a", "1"),
            record(1, "b", "1"),
            tombstone(2, "a"),
            record(3, "a", "2"),
            record(4, "c", "1"),
            tombstone(5, "c"),
        ];
        let outcome = write(&sink, 0, &records).await;
        let indexes: Vec<usize> = outcome.exceptions().iter().map(|(index, _)| *index).collect();
        assert_eq!(indexes, [0, 2, 4]);
        assert_eq!(superseded(&outcome), 3);
        assert_eq!(server.ask("MGET a b c").await, "2 1 nil");
        assert_eq!(server.stored().await, "6");
        assert!(server.ask("INFO commandstats").await.contains("cmdstat_del:calls=1,"));
    }
}

#[test]
fn what_is_no_whole_value_is_not_collapsed() {
    use connect_core::config::Section;
    for more in [
        &[("CONNECT_REDIS_COMMAND", "incrby")][..],
        &[("CONNECT_REDIS_COMMAND", "hset")],
        &[("CONNECT_REDIS_CONDITION", "nx")],
        &[("CONNECT_REDIS_TTL", "keep")],
    ] {
        let mut pairs = vec![("CONNECT_REDIS_URL", "redis://localhost"), ("CONNECT_REDIS_COLLAPSE", "true")];
        pairs.extend_from_slice(more);
        let problems = sink_redis::RedisConfig::from_pairs(&pairs).unwrap_err().to_string();
        assert!(problems.contains("CONNECT_REDIS_COLLAPSE"), "{problems}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_whole_batch_becomes_visible_at_once_where_that_is_asked_for() {
    let server = Server::start().await;
    for (atomic, transactions) in [("record", 10), ("batch", 1)] {
        server.ask("FLUSHALL").await;
        let sink = server.sink_with(&[("CONNECT_REDIS_ATOMIC", atomic), ("CONNECT_REDIS_SCRIPT_RECORDS", "100")]);
        start(&sink).await;
        server.ask("CONFIG RESETSTAT").await;
        let records: Vec<_> = (0..1_000).map(|i| record(i, &format!("k{i}"), "v")).collect();
        write(&sink, 0, &records).await;
        let commands = server.ask("INFO commandstats").await;
        assert!(commands.contains(&format!("cmdstat_exec:calls={transactions},")), "{commands}");
        assert!(!commands.contains("cmdstat_evalsha:"), "{commands}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_whole_batch_becomes_visible_at_once_without_offsets_in_redis_too() {
    let server = Server::start().await;
    for (atomic, transactions) in [("record", 0), ("batch", 2)] {
        server.ask("FLUSHALL").await;
        let sink = server.sink_with(&[("CONNECT_REDIS_ATOMIC", atomic), ("CONNECT_REDIS_OFFSETS", "kafka")]);
        assert_eq!(sink.check().await, Ok(()));
        server.ask("CONFIG RESETSTAT").await;
        let mut records: Vec<_> = (0..1_000).map(|i| record(i, &format!("k{i}"), "v")).collect();
        records[700] = tombstone(700, "k3");
        assert_eq!(sink.write(&batch(&sink, None, 0, &records)).await, Ok(Outcome::written()));
        assert_eq!(server.ask("MGET k3 k4").await, "nil v");
        // A set behind a delete of the same key: a third command.
        records[900] = record(900, "k3", "v");
        assert_eq!(sink.write(&batch(&sink, None, 0, &records)).await, Ok(Outcome::written()));
        // One command alone is atomic by itself.
        assert_eq!(sink.write(&batch(&sink, None, 0, &records[..500])).await, Ok(Outcome::written()));
        assert_eq!(server.ask("MGET k3 k4").await, "v v");
        let commands = server.ask("INFO commandstats").await;
        let calls = |name: &str, count: usize| {
            let found = commands.contains(&format!("cmdstat_{name}:calls={count},"));
            if count == 0 { !commands.contains(&format!("cmdstat_{name}:")) } else { found }
        };
        assert!(calls("multi", transactions) && calls("exec", transactions) && calls("mset", 4), "{commands}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn without_offsets_in_redis_nothing_is_kept_there() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_OFFSETS", "kafka"), ("CONNECT_REDIS_COMMAND", "rpush")]);
    assert!(!sink.atomic());
    assert_eq!(sink.check().await, Ok(()));
    assert_eq!(sink.resume(&assigned(Some(3))).await, Ok(Resume::NotKept));
    server.ask("SET wrong type").await;
    server.ask("SET bad type").await;
    let records =
        [record(0, "a", "1"), record(1, "wrong", "2"), record(2, "a", "3"), record(3, "bad", "4"), tombstone(4, "b")];
    let outcome = sink.write(&batch(&sink, None, 0, &records)).await.unwrap();
    let rejected: Vec<usize> = outcome
        .exceptions()
        .iter()
        .map(|(index, verdict)| {
            assert!(matches!(verdict, Verdict::Rejected(_)));
            *index
        })
        .collect();
    assert_eq!(rejected, [1, 3], "all others are written");
    assert_eq!(server.ask("LRANGE a 0 -1").await, "1 3");
    assert_eq!(server.ask("EXISTS connect:offsets:test").await, "0");
    sink.write(&batch(&sink, None, 0, &records)).await.unwrap();
    assert_eq!(server.ask("LRANGE a 0 -1").await, "1 3 1 3", "at least once");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn offsets_that_may_be_evicted_stop_what_must_not_repeat() {
    let server = Server::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    assert_eq!(server.sink().check().await, Ok(()), "a warning only");
    let message = fatal(server.sink_with(&[("CONNECT_REDIS_COMMAND", "incrby")]).check().await);
    assert!(message.contains("allkeys-lru") && message.contains("CONNECT_REDIS_ALLOW_EVICTION"), "{message}");
    let settings = [("CONNECT_REDIS_COMMAND", "incrby"), ("CONNECT_REDIS_ALLOW_EVICTION", "true")];
    assert_eq!(server.sink_with(&settings).check().await, Ok(()));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn lost_offsets_of_what_must_not_repeat_are_fatal() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "incrby")]);
    start(&sink).await;
    assert_eq!(write(&sink, 0, &[record(0, "a", "1")]).await, Outcome::written());
    server.ask("DEL connect:offsets:test").await;
    let message = fatal(sink.resume(&assigned(Some(1))).await);
    assert!(message.contains("offsets reset") && message.contains("INCRBY"), "{message}");
    assert_eq!(sink.resume(&assigned(None)).await, Ok(Resume::NotKept), "no commit: this connector never ran here");
}
