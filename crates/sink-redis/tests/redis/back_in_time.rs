//! A Redis that lost its last writes: what it lost is written again, and nothing else.

use connect_core::{Record, Resume, Sink, SinkError};
use xtask::services::{Redis, RedisOptions};

use crate::core::deliver;
use crate::support::{OFFSETS, Server, assigned, batch, record, sink, start, write};

const COUNTER: &[(&str, &str)] = &[("CONNECT_REDIS_COMMAND", "incrby"), ("CONNECT_REDIS_KEY", "n")];

fn events(range: std::ops::Range<i64>) -> Vec<Record> {
    range.map(|offset| record(offset, "k", "x")).collect()
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_older_dump_was_restored() {
    // Nothing but SAVE writes to the disk, so a start is a restore.
    let options = RedisOptions { memory_only: true, ..RedisOptions::default() };
    let mut redis = Redis::start(options).await.unwrap();
    let sink = sink(&redis.url(), COUNTER);
    start(&sink).await;
    write(&sink, 0, &events(0..100)).await;
    let port = redis.port().to_string();
    let ask = |words: &[&str]| {
        let output = std::process::Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(ask(&["SAVE"]), "OK");
    write(&sink, 100, &events(100..250)).await;
    assert_eq!(ask(&["GET", "n"]), "250");
    redis.stop();
    redis.start_again().await.unwrap();
    assert_eq!(ask(&["GET", "n"]), "100");
    let next = batch(&sink, Some(250), 250, &events(250..300));
    let error = loop {
        match sink.write(&next).await {
            Err(SinkError::Transient { .. }) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            Err(error) => break error,
            Ok(outcome) => panic!("{outcome:?}"),
        }
    };
    assert_eq!(error, SinkError::OutOfStep { stored: Some(100) });
    assert_eq!(ask(&["GET", "n"]), "100", "nothing was written on top");
    assert_eq!(sink.resume(&assigned(Some(250))).await, Ok(Resume::At(100)));
    deliver(&sink, &events(0..300), 64).await;
    assert_eq!(ask(&["GET", "n"]), "300");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_replica_that_lacked_the_last_writes_became_the_master() {
    let master = Server::start().await;
    let port = master.redis.port().to_string();
    let replica = Server::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    let on_master = master.sink_with(COUNTER);
    start(&on_master).await;
    write(&on_master, 0, &events(0..100)).await;
    // The replica has it all, and is then cut off and promoted.
    assert_eq!(master.ask("WAIT 1 30000").await, "1");
    replica.ask("REPLICAOF NO ONE").await;
    write(&on_master, 100, &events(100..250)).await;
    assert_eq!((master.ask("GET n").await.as_str(), replica.ask("GET n").await.as_str()), ("250", "100"));
    let on_replica = replica.sink_with(COUNTER);
    let result = on_replica.write(&batch(&on_replica, Some(250), 250, &events(250..260))).await;
    assert_eq!(result, Err(SinkError::OutOfStep { stored: Some(100) }));
    deliver(&on_replica, &events(0..300), 64).await;
    assert_eq!(replica.ask("GET n").await, "300");
    assert_eq!(replica.ask(&format!("HGET {OFFSETS} events-0")).await, "300");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_emptied_redis_is_built_anew() {
    let server = Server::start().await;
    let sink = server.sink_with(COUNTER);
    start(&sink).await;
    write(&sink, 0, &events(0..100)).await;
    server.ask("FLUSHALL").await;
    let result = sink.write(&batch(&sink, Some(100), 100, &events(100..110))).await;
    assert_eq!(result, Err(SinkError::OutOfStep { stored: None }));
    deliver(&sink, &events(0..110), 64).await;
    assert_eq!(server.ask("GET n").await, "110");
}
