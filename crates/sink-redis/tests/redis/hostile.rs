//! Records that nobody would write on purpose.

use bytes::Bytes;
use connect_core::config::Section;
use connect_core::{Item, Outcome, Record, Sink, Verdict};
use fred::types::Value;
use sink_redis::{RedisConfig, RedisSink};

use crate::support::{Server, batch, record, rejection, start, tombstone, write};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn no_record_writes_where_offsets_are_kept() {
    let server = Server::start().await;
    let own = ("CONNECT_REDIS_OFFSETS_KEY", "mine");
    for (settings, key) in [
        (&[][..], "connect:offsets:test"),
        (&[], "connect:offsets:another"),
        (&[own], "mine"),
        (&[own], "mine:{7}"),
        (&[("CONNECT_REDIS_OFFSETS", "kafka")], "connect:offsets:another"),
    ] {
        let sink = server.sink_with(settings);
        for hostile in [record(0, key, "x"), tombstone(0, key)] {
            let rejection = sink.prepare(&hostile).unwrap_err().to_string();
            assert!(rejection.contains("CONNECT_REDIS_KEY"), "{key}: {rejection}");
        }
    }
    let sink = server.sink_with(&[own]);
    assert!(sink.prepare(&record(0, "mine too", "x")).unwrap().is_some());
    let publisher = server.sink_with(&[("CONNECT_REDIS_COMMAND", "publish")]);
    assert!(publisher.prepare(&record(0, "connect:offsets:test", "x")).unwrap().is_some(), "a channel is no key");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn keys_and_members_are_bytes() {
    let server = Server::start().await;
    let keys: [&[u8]; 6] = [b"", b"\0", b"\xff\xfe\r\n", b"{", b"*3\r\n$3\r\nDEL\r\n", b"') redis.call('FLUSHALL') --"];
    for command in ["set", "rpush", "zadd", "sadd"] {
        server.ask("FLUSHALL").await;
        let member = if command == "sadd" { "{key}" } else { "{value}" };
        let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", command), ("CONNECT_REDIS_MEMBER", member)]);
        start(&sink).await;
        let records: Vec<Record> = (0..)
            .zip(keys)
            .map(|(offset, key)| Record { key: Some(Bytes::from_static(key)), ..record(offset, "", key) })
            .collect();
        assert_eq!(write(&sink, 0, &records).await, Outcome::written(), "{command}");
        let found = server.send(&["KEYS", "*"]).await.unwrap();
        let Value::Array(found) = found else { panic!("{found:?}") };
        let found: Vec<Bytes> = found.into_iter().filter_map(Value::into_bytes).collect();
        assert_eq!(found.len(), keys.len() + 1, "{command}");
        assert!(keys.iter().all(|key| found.iter().any(|found| found == key)), "{command}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_batch_of_many_mebibytes_is_one_step() {
    let server = Server::start().await;
    for command in ["set", "rpush"] {
        server.ask("FLUSHALL").await;
        let sink = server.sink_with(&[
            ("CONNECT_REDIS_COMMAND", command),
            ("CONNECT_REDIS_ATOMIC", "batch"),
            ("CONNECT_REDIS_TIMEOUT", "60s"),
        ]);
        start(&sink).await;
        server.ask("CONFIG RESETSTAT").await;
        let value = Bytes::from(vec![b'x'; 1 << 10]);
        let records: Vec<Record> = (0..30_000).map(|i| record(i, &format!("k{i}"), value.clone())).collect();
        assert_eq!(write(&sink, 0, &records).await, Outcome::written());
        assert_eq!(server.stored().await, "30000");
        assert_eq!(server.ask("KEYS k*").await.split(' ').count(), 30_000);
        let way = if command == "set" { "cmdstat_exec:calls=1," } else { "cmdstat_evalsha:calls=1," };
        assert!(server.ask("INFO commandstats").await.contains(way), "{command}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_object_of_ten_thousand_members_is_a_hash() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "hset"), ("CONNECT_REDIS_TTL", "1000000h")]);
    start(&sink).await;
    let object = |value: &str| {
        let members: Vec<String> = (0..10_000).map(|i| format!("\"f{i}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_eq!(write(&sink, 0, &[record(0, "k", object("7")), record(1, "l", "{\"a\":1}")]).await, Outcome::written());
    assert_eq!(server.ask("HLEN k").await, "10000");
    assert_eq!(server.ask("HMGET k f0 f9999").await, "7 7");
    write(&sink, 2, &[record(2, "k", object("null"))]).await;
    assert_eq!(server.ask("EXISTS k").await, "0");
    let stream = server.sink_with(&[("CONNECT_REDIS_COMMAND", "xadd")]);
    let rejection = stream.prepare(&record(3, "s", object("7"))).unwrap_err().to_string();
    assert!(rejection.contains("10000 fields"), "{rejection}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn numbers_of_every_kind_are_added_or_refused() {
    let server = Server::start().await;
    let amount = |command, value: &str| {
        let settings = [("CONNECT_REDIS_COMMAND", command), ("CONNECT_REDIS_AMOUNT", "{value}")];
        server.sink_with(&settings).prepare(&record(0, "k", value.to_owned()))
    };
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "incrby"), ("CONNECT_REDIS_AMOUNT", "{value}")]);
    start(&sink).await;
    let values = ["+5", "007", "-0", "-20", "9223372036854775807"];
    let records: Vec<Record> = (0..).zip(values).map(|(offset, value)| record(offset, "k", value)).collect();
    assert_eq!(write(&sink, 0, &records).await, Outcome::written());
    assert_eq!(server.ask("GET k").await, (12 - 20 + i64::MAX).to_string());
    // The sum goes past the end, down as well as up; the record before it counts, the one behind it is written next.
    let records = [record(5, "k", "8"), record(6, "k", "1"), record(7, "k", "-1")];
    assert_eq!(rejection(&write(&sink, 5, &records).await).0, 1);
    assert_eq!(server.ask("GET k").await, i64::MAX.to_string());
    for value in ["", " 1", "1.0", "1e3", "0x10", "9223372036854775808", "one", "\u{0661}"] {
        assert!(amount("incrby", value).is_err(), "{value:?}");
    }
    for value in ["", "NaN", "nan", "-nan", "1,5", "0x1p3x", "one"] {
        assert!(amount("incrbyfloat", value).is_err(), "{value:?}");
    }
    // What the server refuses is a rejection as well, not a wait.
    for (command, setting, value) in [
        ("incrbyfloat", "CONNECT_REDIS_AMOUNT", "inf"),
        ("incrbyfloat", "CONNECT_REDIS_AMOUNT", "1e5000"),
        ("geoadd", "CONNECT_REDIS_LATITUDE", "90"),
    ] {
        server.ask("FLUSHALL").await;
        let mut settings = vec![("CONNECT_REDIS_COMMAND", command), (setting, "{value}")];
        if command == "geoadd" {
            settings.push(("CONNECT_REDIS_LONGITUDE", "0"));
        }
        let sink = server.sink_with(&settings);
        start(&sink).await;
        assert_eq!(rejection(&write(&sink, 0, &[record(0, "k", value)]).await).0, 0, "{command} {value}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn scores_may_be_infinite_but_not_nan() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "zadd"), ("CONNECT_REDIS_SCORE", "{value}")]);
    start(&sink).await;
    assert!(sink.prepare(&record(0, "k", "nan")).is_err());
    write(&sink, 0, &[record(0, "k", "-inf"), record(1, "l", "1e308"), record(2, "k", "+inf")]).await;
    assert_eq!(server.ask("ZSCORE k k").await, "inf");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_last_of_repeated_members_counts() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "hset")]);
    start(&sink).await;
    let values = [r#"{"a":1,"a":2}"#, r#"{"b":null,"b":3}"#, r#"{"c":4,"c":null}"#, r#"{"d":5,"":6}"#];
    let records: Vec<Record> = (0..).zip(values).map(|(offset, value)| record(offset, "k", value)).collect();
    assert_eq!(write(&sink, 0, &records).await, Outcome::written());
    assert_eq!(server.ask("HMGET k a b c d").await, "2 3 nil 5");
    let empty = server.send(&["HGET", "k", ""]).await.unwrap();
    assert_eq!(empty.as_string().as_deref(), Some("6"));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_expiry_far_away_is_one_that_redis_takes() {
    let server = Server::start().await;
    for command in ["set", "incrby"] {
        server.ask("FLUSHALL").await;
        let settings = [
            ("CONNECT_REDIS_COMMAND", command),
            ("CONNECT_REDIS_TTL", "140000years"),
            ("CONNECT_REDIS_TTL_FROM", "value.ends"),
        ];
        let sink = server.sink_with(&settings);
        start(&sink).await;
        let ends = [i64::MAX, 4_000_000_000_000, i64::MIN];
        let records: Vec<Record> = (0..)
            .zip(ends)
            .map(|(offset, ends)| record(offset, &format!("k{offset}"), format!("{{\"ends\":{ends}}}")))
            .collect();
        let outcome = write(&sink, 0, &records).await;
        assert_eq!(outcome.exceptions(), [(2, Verdict::Expired)], "{command}");
        assert_eq!(server.ask("EXISTS k0 k1 k2").await, "2", "{command}");
    }
}

#[test]
fn in_a_cluster_a_name_must_not_pin_the_offsets_to_one_slot() {
    let pairs = [("CONNECT_REDIS_URL", "redis-cluster://localhost:7000")];
    let sink = |name| RedisSink::new(RedisConfig::from_pairs(&pairs).unwrap(), name, &["events".to_owned()]).map(drop);
    assert_eq!(sink("sessions"), Ok(()));
    assert!(sink("{shop}").unwrap_err().contains("CONNECT_REDIS_OFFSETS_KEY"));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_batch_of_one_key_many_times_is_in_order() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    // Runs of SET and DEL are at most 2,000 pairs or 4,000 keys: the key alternates within and across them.
    let records: Vec<Record> =
        (0..12_001).map(|i| if i % 3 == 2 { tombstone(i, "k") } else { record(i, "k", i.to_string()) }).collect();
    let mut whole = batch(&sink, Some(0), 0, &records);
    assert_eq!(sink.write(&whole).await, Ok(Outcome::written()));
    assert_eq!(server.ask("GET k").await, "12000");
    whole.items = vec![Item { offset: 12_001, op: sink.prepare(&tombstone(12_001, "k")).unwrap().unwrap() }];
    (whole.expected, whole.first, whole.next) = (Some(12_001), 12_001, 12_002);
    assert_eq!(sink.write(&whole).await, Ok(Outcome::written()));
    assert_eq!(server.ask("EXISTS k").await, "0");
}
