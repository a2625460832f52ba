//! What the bytes become.

use connect_core::{Outcome, Record, Sink};

use crate::support::{Server, record, start, tombstone, write};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn bytes_arrive_as_they_are_whatever_their_number() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    let mut values: Vec<Vec<u8>> = [0, 1, 31, 32, 255, 256, 65_535, 65_536, 1 << 20, 8 << 20]
        .into_iter()
        .map(|length| (0..length).map(|at| (at % 251) as u8).collect())
        .collect();
    values.push(vec![0xff, 0xfe, 0, b'\r', b'\n', 0xc0]);
    let records: Vec<Record> =
        values.iter().enumerate().map(|(i, value)| record(i as i64, &format!("k{i}"), value.clone())).collect();
    assert_eq!(write(&sink, 0, &records).await, Outcome::written());
    for (i, value) in values.iter().enumerate() {
        assert!(server.get(&format!("k{i}")).await.unwrap() == *value, "{} bytes", value.len());
    }
    assert_eq!(server.stored().await, values.len().to_string());
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn keys_and_values_come_from_templates() {
    let server = Server::start().await;
    let sink = server.sink_with(&[
        ("CONNECT_REDIS_KEY", "session:{value.user.id}"),
        ("CONNECT_REDIS_VALUE", "{value.page}@{offset}"),
    ]);
    start(&sink).await;
    write(&sink, 0, &[record(0, "k", r#"{"user":{"id":7},"page":"/home"}"#)]).await;
    assert_eq!(server.ask("GET session:7").await, "/home@0");
    let rejection = sink.prepare(&tombstone(1, "k")).unwrap_err().to_string();
    assert!(rejection.contains("{value.user.id}"), "{rejection}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_record_without_a_key_is_a_rejection() {
    let server = Server::start().await;
    let sink = server.sink();
    let rejection = sink.prepare(&Record { key: None, ..record(0, "", "1") }).unwrap_err().to_string();
    assert!(rejection.contains("{key}"), "{rejection}");
}

#[test]
fn a_ttl_of_nothing_is_refused() {
    use connect_core::config::Section;
    for ttl in ["0s", "0ms", "1us"] {
        let pairs = [("CONNECT_REDIS_URL", "redis://localhost"), ("CONNECT_REDIS_TTL", ttl)];
        let problems = sink_redis::RedisConfig::from_pairs(&pairs).unwrap_err().to_string();
        assert!(problems.contains("CONNECT_REDIS_TTL") && problems.contains("at least 1ms"), "{problems}");
    }
}

#[test]
fn what_is_published_does_not_expire() {
    use connect_core::config::Section;
    for command in ["publish", "spublish"] {
        for (name, value) in [
            ("CONNECT_REDIS_TTL", "1h"),
            ("CONNECT_REDIS_TTL_FROM", "header:expires"),
            ("CONNECT_REDIS_TTL_FROM", "value.expires"),
        ] {
            let pairs = [("CONNECT_REDIS_URL", "redis://localhost"), ("CONNECT_REDIS_COMMAND", command), (name, value)];
            let problems = sink_redis::RedisConfig::from_pairs(&pairs).unwrap_err().to_string();
            assert!(problems.contains("what is published does not expire"), "{name}={value}: {problems}");
        }
    }
}
