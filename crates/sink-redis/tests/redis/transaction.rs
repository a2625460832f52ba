//! Plain sets and deletes in transactions: the guard holds there as it does in a script.

use connect_core::{Assigned, Batch, Outcome, Record, Resume, Sink, SinkError, TopicPartition};

use crate::support::{Server, assigned, batch, fatal, record, start, superseded, tombstone, transient, write};

const MANY: i64 = 100;

/// So many records from this offset on that a transaction is worth it.
fn many(first: i64, value: &str) -> Vec<Record> {
    (first..first + MANY)
        .map(|offset| record(offset, &format!("k{}", offset % 10), format!("{value}{offset}")))
        .collect()
}

/// How often Redis ran a command.
async fn calls(server: &Server, command: &str) -> usize {
    let stats = server.ask("INFO commandstats").await;
    let line = stats.split_whitespace().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn batch_follows_batch_without_a_script_and_in_one_round_trip() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    server.ask("CONFIG RESETSTAT").await;
    for round in 0..5 {
        let mut records = many(round * MANY, "v");
        records[50] = tombstone(round * MANY + 50, "k1");
        assert_eq!(write(&sink, round * MANY, &records).await, Outcome::written());
        let last = |key: i64| format!("v{}", round * MANY + 90 + key);
        assert_eq!(server.ask("MGET k0 k1 k9").await, [last(0), last(1), last(9)].join(" "));
    }
    assert_eq!(server.stored().await, "500");
    // One look before the first, and one behind each.
    let counted = [calls(&server, "evalsha").await, calls(&server, "exec").await, calls(&server, "watch").await];
    assert_eq!(counted, [0, 5, 6]);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn whoever_moved_the_offset_meanwhile_makes_a_transaction_do_nothing() {
    let server = Server::start().await;
    let (stale, owner) = (server.sink(), server.sink());
    start(&stale).await;
    write(&stale, 0, &many(0, "first")).await;
    // By a script, by a transaction, and by a reset: each while the stale one watches already.
    assert_eq!(write(&owner, 100, &many(100, "owner")[..10]).await, Outcome::written());
    assert_eq!(superseded(&write(&stale, 100, &many(100, "stale")[..10]).await), 10);
    let late = stale.write(&batch(&stale, Some(100), 100, &many(100, "stale"))).await.unwrap();
    assert_eq!(superseded(&late), 10, "what the owner had written, and the rest is written behind it");
    assert_eq!(server.stored().await, "200");
    write(&owner, 200, &many(200, "owner")).await;
    assert_eq!(superseded(&stale.write(&batch(&stale, Some(200), 200, &many(200, "stale"))).await.unwrap()), 100);
    assert_eq!(server.ask("GET k9").await, "owner299");
    owner.set_stored(&assigned(None), 250).await.unwrap();
    let result = owner.write(&batch(&owner, Some(300), 300, &many(300, "owner"))).await;
    assert_eq!(result, Err(SinkError::OutOfStep { stored: Some(250) }));
    assert_eq!((server.ask("GET k9").await, server.stored().await), ("owner299".to_owned(), "250".to_owned()));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn there_is_a_marker_before_it_is_watched_and_a_script_changes_it() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    let marker = "connect:offsets:test:{events-0}";
    assert_eq!(server.ask(&format!("EXISTS {marker}")).await, "0", "no transaction was made");
    // It looks, finds another position than expected, and does nothing more.
    let result = sink.write(&batch(&sink, Some(7), 7, &many(7, "late"))).await;
    assert_eq!(result, Err(SinkError::OutOfStep { stored: Some(0) }));
    assert_eq!(server.ask(&format!("GET {marker}")).await, "looked at");
    write(&sink, 0, &many(0, "v")[..10]).await;
    assert_eq!(server.ask(&format!("GET {marker}")).await, "10", "a script has changed it");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_marker_that_is_gone_is_watched_by_nobody() {
    let server = Server::start().await;
    let (stale, owner) = (server.sink(), server.sink());
    start(&stale).await;
    write(&stale, 0, &many(0, "first")).await;
    // It expired or was evicted. Scripts change a marker only where there is one.
    server.ask("DEL connect:offsets:test:{events-0}").await;
    write(&owner, 100, &many(100, "owner")[..50]).await;
    write(&owner, 150, &many(150, "owner")[..50]).await;
    let late = stale.write(&batch(&stale, Some(100), 100, &many(100, "stale"))).await.unwrap();
    assert_eq!(superseded(&late), 100);
    write(&owner, 200, &many(200, "owner")[..10]).await;
    let late = stale.write(&batch(&stale, Some(200), 200, &many(200, "stale")[..64])).await.unwrap();
    assert_eq!(superseded(&late), 10, "only what lies behind the owner's is written");
    assert_eq!(server.stored().await, "264");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_marker_that_goes_by_itself_counts_as_changed() {
    // Redis before 6.0.9 would make the transaction, and the guard would be none.
    let server = Server::start().await;
    for command in ["SET marker seen PX 30", "WATCH marker"] {
        server.ask(command).await;
    }
    assert_eq!(server.ask("EXISTS marker").await, "1", "it was there when we began to watch");
    let now = async || server.ask("TIME").await.split(' ').next().unwrap().parse::<u64>().unwrap();
    let begun = now().await;
    // Nobody looks at the key, so that it may be there still, though its time has passed.
    while now().await < begun + 2 {}
    for command in ["MULTI", "SET written late"] {
        server.ask(command).await;
    }
    assert_eq!(server.ask("EXEC").await, "nil");
    assert_eq!(server.ask("EXISTS written").await, "0");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn offsets_that_are_deleted_under_load_are_still_ours() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    // A partition beside it, which writes so little that it does so by scripts.
    let other = Assigned { partition: TopicPartition::new("events", 1), ..assigned(Some(10)) };
    let of_other = |expected, records: &[Record]| Batch {
        source: other.partition.clone(),
        ..batch(&sink, expected, expected.unwrap_or_default(), records)
    };
    assert_eq!(sink.write(&of_other(None, &many(0, "other")[..10])).await, Ok(Outcome::written()));
    write(&sink, 0, &many(0, "v")).await;
    server.ask("DEL connect:offsets:test").await;
    // What was seen counts for a second, so this one is written, and the hash is there again.
    assert_eq!(write(&sink, 100, &many(100, "v")).await, Outcome::written());
    assert_eq!(server.sink().resume(&assigned(Some(200))).await, Ok(Resume::At(200)));
    let result = sink.write(&of_other(Some(10), &many(10, "other")[..10])).await;
    assert_eq!(result, Err(SinkError::OutOfStep { stored: None }));
    assert_eq!(sink.resume(&other).await, Ok(Resume::NotKept), "it goes on at the commit");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_look_at_an_empty_database_leaves_it_empty() {
    let server = Server::start().await;
    start(&server.sink()).await;
    write(&server.sink(), 0, &many(0, "v")).await;
    server.ask("FLUSHALL").await;
    // Connected anew, so that it looks first.
    let sink = server.sink();
    let result = sink.write(&batch(&sink, Some(100), 100, &many(100, "v"))).await;
    assert_eq!(result, Err(SinkError::OutOfStep { stored: None }));
    assert_eq!(server.ask("DBSIZE").await, "0", "a marker would look like data of which the offsets are lost");
    assert_eq!(sink.resume(&assigned(Some(100))).await, Ok(Resume::Empty));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_connection_that_was_lost_guards_nothing_and_writes_nothing() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    write(&sink, 0, &many(0, "v")).await;
    // It is within the next transaction already: on another connection the commands would be taken one by one.
    server.ask("CLIENT KILL TYPE normal SKIPME yes").await;
    server.ask("HSET connect:offsets:test events-0 7").await;
    loop {
        match sink.write(&batch(&sink, Some(100), 100, &many(100, "late"))).await {
            Err(SinkError::Transient { .. }) => {}
            other => break assert_eq!(other, Err(SinkError::OutOfStep { stored: Some(7) })),
        }
    }
    assert_eq!(server.ask("GET k9").await, "v99");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn who_may_not_make_transactions_writes_by_scripts() {
    let server = Server::start().await;
    let url = format!("redis://narrow:pw@127.0.0.1:{}", server.redis.port());
    for refused in ["multi", "exec", "watch"] {
        server.ask("FLUSHALL").await;
        server.ask(&format!("ACL SETUSER narrow reset on >pw ~* +@all -{refused}")).await;
        let sink = crate::support::sink(&url, &[]);
        assert_eq!(sink.check().await, Ok(()), "{refused}");
        start(&sink).await;
        server.ask("CONFIG RESETSTAT").await;
        for round in 0..2 {
            assert_eq!(write(&sink, round * MANY, &many(round * MANY, "v")).await, Outcome::written(), "{refused}");
        }
        assert_eq!(
            (server.ask("GET k9").await, server.stored().await),
            ("v199".to_owned(), "200".to_owned()),
            "{refused}"
        );
        let stats = server.ask("INFO commandstats").await;
        assert!(!stats.contains("cmdstat_watch"), "{refused}: the check had seen it, so it is not even tried");
        // Another one was there first: nothing may slip past the guard.
        server.ask("HSET connect:offsets:test events-0 150").await;
        let result = sink.write(&batch(&sink, Some(200), 200, &many(200, "late"))).await;
        assert_eq!(result, Err(SinkError::OutOfStep { stored: Some(150) }), "{refused}");
        assert_eq!(server.ask("GET k9").await, "v199", "{refused}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_the_server_refuses_is_told_as_by_a_script() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    write(&sink, 0, &many(0, "v")).await;
    server.ask("CONFIG SET maxmemory 1").await;
    assert_eq!(transient(sink.write(&batch(&sink, Some(100), 100, &many(100, "v"))).await), "out_of_memory");
    server.ask("CONFIG SET maxmemory 0").await;
    assert_eq!(server.stored().await, "100");
    assert_eq!(write(&sink, 100, &many(100, "v")).await, Outcome::written());
    server.ask("DEL connect:offsets:test").await;
    server.ask("SET connect:offsets:test theirs").await;
    // Within the second in which what was seen counts, the transaction itself meets the other type, and the script tells it.
    let message = fatal(sink.write(&batch(&sink, Some(200), 200, &many(200, "v"))).await);
    assert!(message.contains("connect:offsets:test"), "{message}");
}
