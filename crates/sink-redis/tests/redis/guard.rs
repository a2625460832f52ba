//! Each sentence about the guard: what is stored decides what a batch does.

use connect_core::{Outcome, Resume, Sink, SinkError};

use crate::support::{Server, assigned, batch, record, start, superseded, tombstone, write};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn data_and_offset_change_together() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    let records =
        [record(0, "a", "1"), record(1, "b", "2"), tombstone(2, "a"), record(3, "c", "3"), record(4, "b", "4")];
    assert_eq!(write(&sink, 0, &records).await, Outcome::written());
    assert_eq!(server.ask("MGET a b c").await, "nil 4 3");
    assert_eq!(server.stored().await, "5");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_order_of_set_and_delete_is_the_order_of_the_records() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    let records = [record(0, "a", "1"), tombstone(1, "a"), tombstone(2, "b"), record(3, "b", "2"), record(4, "b", "3")];
    write(&sink, 0, &records).await;
    assert_eq!(server.ask("MGET a b").await, "nil 3");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_empty_batch_stores_its_offset() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    let mut nothing = batch(&sink, Some(0), 0, &[]);
    nothing.next = 17;
    assert_eq!(sink.write(&nothing).await, Ok(Outcome::written()));
    assert_eq!(server.stored().await, "17");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_missing_offset_matches_only_the_expectation_of_none() {
    let server = Server::start().await;
    let sink = server.sink();
    let records = [record(5, "a", "1")];
    let result = sink.write(&batch(&sink, Some(5), 5, &records)).await;
    assert_eq!(result, Err(SinkError::OutOfStep { stored: None }));
    assert_eq!(server.ask("EXISTS a connect:offsets:test").await, "0", "nothing was written");
    assert_eq!(sink.write(&batch(&sink, None, 5, &records)).await, Ok(Outcome::written()));
    assert_eq!(server.stored().await, "6");
    // It had been deleted since it was taken up: who makes it anew says whose it is.
    assert_eq!(sink.resume(&assigned(None)).await, Ok(Resume::At(6)));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_lies_behind_the_batch_means_that_it_is_done() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    let old = [record(0, "a", "old"), record(1, "b", "old")];
    write(&sink, 0, &old).await;
    write(&sink, 2, &[record(2, "a", "new")]).await;
    // The same batch lands again, late: as a request does that timed out.
    assert_eq!(superseded(&write(&sink, 0, &old).await), 2);
    assert_eq!(server.ask("MGET a b").await, "new old");
    assert_eq!(server.stored().await, "3");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_late_first_batch_changes_nothing() {
    let server = Server::start().await;
    let sink = server.sink();
    let first = batch(&sink, None, 0, &[record(0, "a", "old")]);
    sink.write(&first).await.unwrap();
    write(&sink, 1, &[record(1, "a", "new")]).await;
    assert_eq!(superseded(&sink.write(&first).await.unwrap()), 1);
    assert_eq!(server.ask("GET a").await, "new");
    assert_eq!(server.stored().await, "2");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_applied_prefix_of_an_overlapping_batch_is_left_out() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1"), record(1, "a", "2")]).await;
    // Somebody else's change shows whether the first two are written again.
    server.ask("SET a theirs").await;
    let records = [record(0, "a", "1"), record(1, "a", "2"), record(2, "b", "3"), record(4, "c", "4")];
    let outcome = sink.write(&batch(&sink, Some(0), 0, &records)).await.unwrap();
    assert_eq!(superseded(&outcome), 2);
    assert_eq!(server.ask("MGET a b c").await, "theirs 3 4");
    assert_eq!(server.stored().await, "5");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_offset_that_went_back_is_out_of_step() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1"), record(1, "a", "2")]).await;
    server.ask("HSET connect:offsets:test events-0 1").await;
    let result = sink.write(&batch(&sink, Some(2), 2, &[record(2, "a", "3")])).await;
    assert_eq!(result, Err(SinkError::OutOfStep { stored: Some(1) }));
    assert_eq!(server.ask("GET a").await, "2");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn of_two_owners_the_stale_one_has_no_effect() {
    let server = Server::start().await;
    let (stale, owner) = (server.sink(), server.sink());
    start(&stale).await;
    // The stale one has prepared its write and is paused; the owner goes on.
    let late = batch(&stale, Some(0), 0, &[record(0, "a", "stale"), record(1, "b", "stale")]);
    write(&owner, 0, &[record(0, "a", "1"), record(1, "b", "2"), record(2, "a", "3")]).await;
    assert_eq!(superseded(&stale.write(&late).await.unwrap()), 2);
    assert_eq!(server.ask("MGET a b").await, "3 2");
    assert_eq!(server.stored().await, "3");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_batch_that_is_too_large_is_several_scripts() {
    let server = Server::start().await;
    for settings in [("CONNECT_REDIS_SCRIPT_RECORDS", "7"), ("CONNECT_REDIS_SCRIPT_BYTES", "100B")] {
        server.ask("FLUSHALL").await;
        server.ask("CONFIG RESETSTAT").await;
        let sink = server.sink_with(&[settings]);
        start(&sink).await;
        let records: Vec<_> = (0..100).map(|i| record(i, &format!("key{i:02}"), vec![b'x'; 10])).collect();
        assert_eq!(write(&sink, 0, &records).await, Outcome::written());
        assert_eq!(server.ask("DBSIZE").await, "101");
        assert_eq!(server.stored().await, "100");
        let commands = server.ask("INFO commandstats").await;
        assert!(commands.contains("cmdstat_mset:calls=15") || commands.contains("cmdstat_mset:calls=17"), "{commands}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_batch_is_one_round_trip() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "incrby"), ("CONNECT_REDIS_AMOUNT", "1")]);
    start(&sink).await;
    server.ask("CONFIG RESETSTAT").await;
    let records: Vec<_> = (0..4_000).map(|i| record(i, &format!("k{i}"), "v")).collect();
    write(&sink, 0, &records).await;
    let commands = server.ask("INFO commandstats").await;
    assert!(commands.contains("cmdstat_evalsha:calls=1,"), "{commands}");
    assert_eq!(server.ask("DBSIZE").await, "4001");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_script_is_sent_again_when_redis_forgot_it() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    server.ask("SCRIPT FLUSH").await;
    assert_eq!(write(&sink, 0, &[record(0, "a", "1")]).await, Outcome::written());
    assert_eq!(server.ask("GET a").await, "1");
    assert_eq!(server.stored().await, "1");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_offset_beyond_what_a_float_holds_stays_exact() {
    let server = Server::start().await;
    let sink = server.sink();
    let first = (1 << 53) + 1;
    sink.write(&batch(&sink, None, first, &[record(first, "a", "1")])).await.unwrap();
    assert_eq!(server.stored().await, (first + 1).to_string());
    write(&sink, first + 1, &[record(first + 1, "a", "2")]).await;
    assert_eq!(server.stored().await, (first + 2).to_string());
}
