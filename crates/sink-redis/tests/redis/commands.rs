//! Every command: write, write again, tombstone, replay from an earlier offset, a key of another type.

use connect_core::{Outcome, Record, Resume, Sink};

use crate::support::{Server, assigned, batch, record, rejection, start, superseded, tombstone, write};

/// A command and what it does to the key `k`, whose records have the key `k` too.
struct Case {
    settings: &'static [(&'static str, &'static str)],
    /// Makes `k` something that the command can't write to; empty where there is no such thing.
    obstacle: &'static str,
    /// Looks into `k`.
    read: &'static str,
    /// What is seen at first, after the first record, the second one, and a tombstone.
    seen: [&'static str; 4],
    /// Puts something beside it into `k` before the tombstone, which leaves it there or takes it along; empty for nothing.
    beside: &'static str,
    records: [&'static str; 2],
}

const LIST: &str = "RPUSH k theirs";
const STRING: &str = "SET k theirs";

/// Other cases give it a condition.
const ZADD: Case = Case {
    settings: &[("CONNECT_REDIS_COMMAND", "zadd"), ("CONNECT_REDIS_SCORE", "{value}")],
    obstacle: STRING,
    read: "ZRANGE k 0 -1 WITHSCORES",
    seen: ["", "k 7", "k 2.5", "kept 1"],
    beside: "ZADD k 1 kept",
    records: ["7", "2.5"],
};

const CASES: &[Case] = &[
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "set")],
        obstacle: "",
        read: "GET k",
        seen: ["nil", "1", "2", "nil"],
        beside: "",
        records: ["1", "2"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "set"), ("CONNECT_REDIS_CONDITION", "nx")],
        obstacle: "",
        read: "GET k",
        seen: ["nil", "1", "1", "nil"],
        beside: "",
        records: ["1", "2"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "set"), ("CONNECT_REDIS_CONDITION", "xx")],
        obstacle: "",
        read: "GET k",
        seen: ["nil", "nil", "nil", "nil"],
        beside: "",
        records: ["1", "2"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "incrby"), ("CONNECT_REDIS_AMOUNT", "{value.n}")],
        obstacle: LIST,
        read: "GET k",
        seen: ["nil", "5", "3", "nil"],
        beside: "",
        records: [r#"{"n":5}"#, r#"{"n":-2}"#],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "incrby")],
        obstacle: STRING,
        read: "GET k",
        seen: ["nil", "1", "2", "nil"],
        beside: "",
        records: ["x", "y"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "incrbyfloat"), ("CONNECT_REDIS_AMOUNT", "{value}")],
        obstacle: LIST,
        read: "GET k",
        seen: ["nil", "0.5", "3", "nil"],
        beside: "",
        records: ["0.5", "25e-1"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "hset")],
        obstacle: STRING,
        read: "HMGET k a b.c n kept",
        seen: ["nil nil nil nil", "1 x nil nil", "2 x 7 nil", "nil nil nil nil"],
        beside: "HSET k kept 1",
        records: [r#"{"a":1,"b":{"c":"x"},"n":null}"#, r#"{"a":2,"n":7}"#],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "hset"), ("CONNECT_REDIS_SEPARATOR", ":")],
        obstacle: STRING,
        read: "HMGET k b:c:d b.c.d",
        seen: ["nil nil", "x nil", "y nil", "nil nil"],
        beside: "",
        records: [r#"{"b":{"c":{"d":"x"}}}"#, r#"{"b":{"c":{"d":"y"}}}"#],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "hset"), ("CONNECT_REDIS_NESTED", "json")],
        obstacle: STRING,
        read: "HMGET k b b.c",
        seen: ["nil nil", r#"{"c":"x"} nil"#, r#"{"c":"y"} nil"#, "nil nil"],
        beside: "",
        records: [r#"{"b":{"c":"x"}}"#, r#"{"b":{"c":"y"}}"#],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "hset"), ("CONNECT_REDIS_FIELDS", "a,b.c")],
        obstacle: STRING,
        read: "HMGET k a b.c n kept",
        seen: ["nil nil nil nil", "1 x nil nil", "2 nil nil nil", "nil nil nil nil"],
        beside: "HSET k kept 1",
        records: [r#"{"a":1,"b":{"c":"x"}}"#, r#"{"a":2,"n":7}"#],
    },
    Case {
        settings: &[
            ("CONNECT_REDIS_COMMAND", "hset"),
            ("CONNECT_REDIS_FIELDS", "a"),
            ("CONNECT_REDIS_HASH_TOMBSTONE", "fields"),
        ],
        obstacle: STRING,
        read: "HMGET k a kept",
        seen: ["nil nil", "1 nil", "2 nil", "nil 1"],
        beside: "HSET k kept 1",
        records: [r#"{"a":1}"#, r#"{"a":2}"#],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "hset"), ("CONNECT_REDIS_FIELD", "f{topic}")],
        obstacle: STRING,
        read: "HMGET k fevents kept",
        seen: ["nil nil", "1 nil", "2 nil", "nil 1"],
        beside: "HSET k kept 1",
        records: ["1", "2"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "rpush")],
        obstacle: STRING,
        read: "LRANGE k 0 -1",
        seen: ["", "1", "1 2", ""],
        beside: "",
        records: ["1", "2"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "lpush")],
        obstacle: STRING,
        read: "LRANGE k 0 -1",
        seen: ["", "1", "2 1", ""],
        beside: "",
        records: ["1", "2"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "rpush"), ("CONNECT_REDIS_TRIM", "1")],
        obstacle: STRING,
        read: "LRANGE k 0 -1",
        seen: ["", "1", "2", ""],
        beside: "",
        records: ["1", "2"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "lpush"), ("CONNECT_REDIS_TRIM", "1")],
        obstacle: STRING,
        read: "LRANGE k 0 -1",
        seen: ["", "1", "2", ""],
        beside: "",
        records: ["1", "2"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "sadd"), ("CONNECT_REDIS_MEMBER", "{key}")],
        obstacle: STRING,
        read: "SMEMBERS k",
        seen: ["", "k", "k", "kept"],
        beside: "SADD k kept",
        records: ["1", "2"],
    },
    ZADD,
    Case {
        settings: &[
            ("CONNECT_REDIS_COMMAND", "zadd"),
            ("CONNECT_REDIS_SCORE", "{value}"),
            ("CONNECT_REDIS_CONDITION", "gt"),
        ],
        seen: ["", "k 7", "k 7", "kept 1"],
        records: ["7", "2"],
        ..ZADD
    },
    Case {
        settings: &[
            ("CONNECT_REDIS_COMMAND", "zadd"),
            ("CONNECT_REDIS_SCORE", "{value}"),
            ("CONNECT_REDIS_CONDITION", "lt"),
        ],
        seen: ["", "k 7", "k 2", "kept 1"],
        records: ["7", "2"],
        ..ZADD
    },
    Case {
        settings: &[
            ("CONNECT_REDIS_COMMAND", "zadd"),
            ("CONNECT_REDIS_SCORE", "{value}"),
            ("CONNECT_REDIS_CONDITION", "nx"),
        ],
        seen: ["", "k 7", "k 7", "kept 1"],
        records: ["7", "2"],
        ..ZADD
    },
    Case {
        settings: &[
            ("CONNECT_REDIS_COMMAND", "zadd"),
            ("CONNECT_REDIS_SCORE", "{value}"),
            ("CONNECT_REDIS_CONDITION", "xx"),
        ],
        obstacle: "",
        seen: ["", "", "", "kept 1"],
        records: ["7", "2"],
        ..ZADD
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "zadd")],
        obstacle: STRING,
        read: "ZMSCORE k k kept",
        seen: ["nil nil", "1700000000000 nil", "1700000000000 nil", "nil 1"],
        beside: "ZADD k 1 kept",
        records: ["7", "2"],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "xadd"), ("CONNECT_REDIS_TRIM", "1000")],
        obstacle: STRING,
        read: "XLEN k",
        seen: ["0", "1", "2", "0"],
        beside: "",
        records: [r#"{"a":1}"#, r#"{"a":2}"#],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "xadd"), ("CONNECT_REDIS_FIELD", "raw")],
        obstacle: STRING,
        read: "XLEN k",
        seen: ["0", "1", "2", "0"],
        beside: "",
        records: ["1", "2"],
    },
    Case {
        settings: &[
            ("CONNECT_REDIS_COMMAND", "geoadd"),
            ("CONNECT_REDIS_LONGITUDE", "{value.at.0}"),
            ("CONNECT_REDIS_LATITUDE", "{value.at.1}"),
        ],
        obstacle: STRING,
        read: "GEOHASH k k kept",
        seen: ["nil nil", "u33dc0cppj0 nil", "u09tvw0f640 nil", "nil u33dc0cppj0"],
        beside: "GEOADD k 13.405 52.52 kept",
        records: [r#"{"at":[13.405,52.52]}"#, r#"{"at":[2.3522,48.8566]}"#],
    },
    Case {
        settings: &[
            ("CONNECT_REDIS_COMMAND", "geoadd"),
            ("CONNECT_REDIS_LONGITUDE", "{value.at.0}"),
            ("CONNECT_REDIS_LATITUDE", "{value.at.1}"),
            ("CONNECT_REDIS_CONDITION", "nx"),
        ],
        obstacle: STRING,
        read: "GEOHASH k k",
        seen: ["nil", "u33dc0cppj0", "u33dc0cppj0", "nil"],
        beside: "",
        records: [r#"{"at":[13.405,52.52]}"#, r#"{"at":[2.3522,48.8566]}"#],
    },
    Case {
        settings: &[
            ("CONNECT_REDIS_COMMAND", "geoadd"),
            ("CONNECT_REDIS_LONGITUDE", "{value.at.0}"),
            ("CONNECT_REDIS_LATITUDE", "{value.at.1}"),
            ("CONNECT_REDIS_CONDITION", "xx"),
        ],
        obstacle: "",
        read: "GEOHASH k k",
        seen: ["nil", "nil", "nil", "nil"],
        beside: "",
        records: [r#"{"at":[13.405,52.52]}"#, r#"{"at":[2.3522,48.8566]}"#],
    },
    Case {
        settings: &[("CONNECT_REDIS_COMMAND", "pfadd")],
        obstacle: STRING,
        read: "PFCOUNT k",
        seen: ["0", "1", "2", "0"],
        beside: "",
        records: ["1", "2"],
    },
];

/// A value that every command of a case can write.
fn filler(offset: i64, case: &Case) -> Record {
    record(offset, &format!("other{offset}"), case.records[0])
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn write_again_replay_and_tombstone() {
    let server = Server::start().await;
    for case in CASES {
        server.ask("FLUSHALL").await;
        let what = format!("{:?}", case.settings);
        let seen = async |step: usize| assert_eq!(server.ask(case.read).await, case.seen[step], "{what}: {step}");
        let sink = server.sink_with(case.settings);
        start(&sink).await;
        seen(0).await;
        let records = [record(0, "k", case.records[0]), record(1, "k", case.records[1])];
        assert_eq!(write(&sink, 0, &records[..1]).await, Outcome::written(), "{what}");
        seen(1).await;
        assert_eq!(write(&sink, 1, &records[1..]).await, Outcome::written(), "{what}");
        seen(2).await;
        // The process is killed before it committed, or a request lands late: the same from an earlier offset.
        let again = server.sink_with(case.settings);
        assert_eq!(again.resume(&assigned(Some(0))).await, Ok(Resume::At(2)), "{what}");
        assert_eq!(superseded(&again.write(&batch(&again, Some(0), 0, &records)).await.unwrap()), 2, "{what}");
        seen(2).await;
        // A batch that overlaps what is there.
        let longer = [records[0].clone(), records[1].clone(), filler(2, case)];
        assert_eq!(superseded(&again.write(&batch(&again, Some(0), 0, &longer)).await.unwrap()), 2, "{what}");
        seen(2).await;
        if !case.beside.is_empty() {
            server.ask(case.beside).await;
        }
        let deleted = [tombstone(3, "k")];
        assert_eq!(write(&again, 3, &deleted).await, Outcome::written(), "{what}");
        seen(3).await;
        assert_eq!(server.stored().await, "4", "{what}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_key_of_another_type_is_a_rejection_behind_an_exact_prefix() {
    let server = Server::start().await;
    for case in CASES.iter().filter(|case| !case.obstacle.is_empty()) {
        server.ask("FLUSHALL").await;
        let what = format!("{:?}", case.settings);
        let sink = server.sink_with(case.settings);
        start(&sink).await;
        server.ask(case.obstacle).await;
        let before = server.ask("DUMP k").await;
        let records = [filler(0, case), filler(1, case), record(2, "k", case.records[0]), filler(3, case)];
        let outcome = write(&sink, 0, &records).await;
        let (index, reason) = rejection(&outcome);
        assert_eq!(index, 2, "{what}");
        assert!(reason.contains("Redis refuses the record"), "{what}: {reason}");
        assert_eq!(server.stored().await, "2", "{what}: its own offset, so nothing is repeated and nothing left out");
        assert_eq!(server.ask("EXISTS other0 other1 other3").await, "2", "{what}");
        assert_eq!(server.ask("DUMP k").await, before, "{what}");
        // As long as it is in the way the same happens again, and nothing else.
        assert_eq!(rejection(&write(&sink, 2, &records[2..]).await).0, 0, "{what}");
        // The core made a dead letter of it and goes on behind it.
        let rest = batch(&sink, Some(2), 2, &records[3..]);
        assert_eq!(sink.write(&rest).await, Ok(Outcome::written()), "{what}");
        assert_eq!(server.ask("EXISTS other3").await, "1", "{what}");
        assert_eq!(server.stored().await, "4", "{what}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_a_record_lacks_is_named() {
    let server = Server::start().await;
    type Lacks<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: &[Lacks<'_>] = &[
        (&[("CONNECT_REDIS_COMMAND", "incrby"), ("CONNECT_REDIS_AMOUNT", "{value.n}")], r#"{"m":1}"#, "{value.n}"),
        (
            &[("CONNECT_REDIS_COMMAND", "incrby"), ("CONNECT_REDIS_AMOUNT", "{value.n}")],
            r#"{"n":1.5}"#,
            "{value.n} is not a whole number",
        ),
        (
            &[("CONNECT_REDIS_COMMAND", "incrbyfloat"), ("CONNECT_REDIS_AMOUNT", "{value.n}")],
            r#"{"n":"x"}"#,
            "{value.n} is not a number",
        ),
        (
            &[("CONNECT_REDIS_COMMAND", "zadd"), ("CONNECT_REDIS_SCORE", "{value.s}")],
            r#"{"s":"high"}"#,
            "{value.s} is not a number",
        ),
        (&[("CONNECT_REDIS_COMMAND", "hset")], "[1]", "no JSON object"),
        (&[("CONNECT_REDIS_COMMAND", "xadd")], r#"{"a":null}"#, "no field"),
        (&[("CONNECT_REDIS_COMMAND", "set"), ("CONNECT_REDIS_VALUE", "{header.h}")], "x", "{header.h}"),
    ];
    for (settings, value, expected) in cases {
        let sink = server.sink_with(settings);
        let rejection = sink.prepare(&record(0, "k", *value)).unwrap_err().to_string();
        assert!(rejection.contains(expected), "{rejection}");
    }
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "sadd")]);
    let rejection = sink.prepare(&tombstone(0, "k")).unwrap_err().to_string();
    assert!(rejection.contains("{value}"), "which member goes is not known: {rejection}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_redis_can_not_add_up_is_a_rejection() {
    let server = Server::start().await;
    for (command, amount, former) in [
        ("incrby", "1", "9223372036854775807"),
        ("incrby", "1", "text"),
        ("incrbyfloat", "1e4932", "1e4932"),
        ("incrbyfloat", "1", "text"),
    ] {
        server.ask("FLUSHALL").await;
        let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", command), ("CONNECT_REDIS_AMOUNT", amount)]);
        start(&sink).await;
        server.ask(&format!("SET k {former}")).await;
        let outcome = write(&sink, 0, &[record(0, "a", "x"), record(1, "k", "x")]).await;
        assert!(matches!(outcome.exceptions().len(), 1), "{command} {former}: {outcome:?}");
        assert_eq!(rejection(&outcome).0, 1);
        assert_eq!(server.ask("GET k").await, former);
    }
    server.ask("FLUSHALL").await;
    let place = [
        ("CONNECT_REDIS_COMMAND", "geoadd"),
        ("CONNECT_REDIS_LONGITUDE", "200"),
        ("CONNECT_REDIS_LATITUDE", "{value}"),
    ];
    let sink = server.sink_with(&place);
    start(&sink).await;
    assert_eq!(rejection(&write(&sink, 0, &[record(0, "k", "1")]).await).0, 0);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_sorted_set_keeps_its_highest_scores() {
    let server = Server::start().await;
    let sink = server.sink_with(&[
        ("CONNECT_REDIS_COMMAND", "zadd"),
        ("CONNECT_REDIS_KEY", "board"),
        ("CONNECT_REDIS_SCORE", "{value}"),
        ("CONNECT_REDIS_TRIM", "2"),
    ]);
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1"), record(1, "b", "5"), record(2, "c", "3"), record(3, "d", "2")]).await;
    assert_eq!(server.ask("ZRANGE board 0 -1").await, "c b");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_stream_holds_the_fields_of_about_its_newest_entries() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "xadd"), ("CONNECT_REDIS_TRIM", "1")]);
    start(&sink).await;
    let value = |offset: i64| format!(r#"{{"n":{offset},"at":{{"page":"/home"}},"left":null}}"#);
    let records: Vec<Record> = (0..300).map(|offset| record(offset, "k", value(offset))).collect();
    assert_eq!(write(&sink, 0, &records).await, Outcome::written());
    let last = server.ask("XREVRANGE k + - COUNT 1").await;
    assert_eq!(last.split_once(' ').unwrap().1, "n 299 at.page /home");
    // The server removes whole nodes of a hundred.
    let length: usize = server.ask("XLEN k").await.parse().unwrap();
    assert!((1..=101).contains(&length), "{length}");
    let named = server.sink_with(&[("CONNECT_REDIS_COMMAND", "xadd"), ("CONNECT_REDIS_FIELD", "raw")]);
    write(&named, 300, &[record(300, "k", "text")]).await;
    let last = server.ask("XREVRANGE k + - COUNT 1").await;
    assert_eq!(last.split_once(' ').unwrap().1, "raw text");
    // Somebody has given it the highest id that there is.
    server.ask("XADD k 18446744073709551615-18446744073709551615 a 1").await;
    let (index, reason) = rejection(&write(&named, 301, &[record(301, "other", "x"), record(302, "k", "x")]).await);
    assert!(index == 1 && reason.contains("no more entries"), "{reason}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_is_published_is_published_once() {
    use fred::interfaces::{ClientLike, PubsubInterface};
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "publish"), ("CONNECT_REDIS_KEY", "news:{key}")]);
    assert_eq!(sink.check().await, Ok(()));
    start(&sink).await;
    let config = fred::types::config::Config::from_url(&server.redis.url()).unwrap();
    let subscriber = fred::types::Builder::from_config(config).build().unwrap();
    subscriber.init().await.unwrap();
    let mut messages = fred::interfaces::EventInterface::message_rx(&subscriber);
    subscriber.subscribe("news:k").await.unwrap();
    let records = [record(0, "k", "1"), record(1, "k", "2")];
    write(&sink, 0, &records).await;
    assert_eq!(superseded(&write(&sink, 0, &records).await), 2);
    assert_eq!(sink.prepare(&tombstone(2, "k")).unwrap(), None, "there is nothing to publish");
    write(&sink, 2, &[record(2, "k", "3")]).await;
    for expected in ["1", "2", "3"] {
        let message = tokio::time::timeout(std::time::Duration::from_secs(10), messages.recv()).await.unwrap().unwrap();
        assert_eq!(message.value.as_string().unwrap(), expected);
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_server_without_json_says_so() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "json.set")]);
    let message = crate::support::fatal(sink.check().await);
    assert!(message.contains("JSON.SET") && message.contains("module"), "{message}");
    start(&sink).await;
    crate::support::fatal(sink.write(&batch(&sink, Some(0), 0, &[record(0, "k", "{}")])).await);
    assert_eq!(server.stored().await, "0");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_missing_permission_for_a_second_command_repeats_nothing() {
    let server = Server::start().await;
    server.ask("ACL SETUSER narrow on >pw ~* +@all -ltrim").await;
    let settings = [
        ("CONNECT_REDIS_COMMAND", "rpush"),
        ("CONNECT_REDIS_TRIM", "10"),
        ("CONNECT_REDIS_USERNAME", "narrow"),
        ("CONNECT_REDIS_PASSWORD", "pw"),
    ];
    let sink = server.sink_with(&settings);
    let message = crate::support::fatal(sink.check().await);
    assert!(message.contains("LTRIM"), "{message}");
    // It was withdrawn while the connector ran.
    start(&sink).await;
    let records = [record(0, "k", "1"), record(1, "k", "2"), record(2, "k", "3")];
    let message = crate::support::fatal(sink.write(&batch(&sink, Some(0), 0, &records)).await);
    assert!(message.contains("offset 0 is written"), "{message}");
    assert_eq!(server.stored().await, "1");
    server.ask("ACL SETUSER narrow +ltrim").await;
    assert_eq!(superseded(&write(&sink, 0, &records).await), 1);
    assert_eq!(server.ask("LRANGE k 0 -1").await, "1 2 3");
    let last = [record(3, "k", "4")];
    server.ask("ACL SETUSER narrow -ltrim").await;
    crate::support::fatal(sink.write(&batch(&sink, Some(3), 3, &last)).await);
    assert_eq!(server.stored().await, "4");
}
