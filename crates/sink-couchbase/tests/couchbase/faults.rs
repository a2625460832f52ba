//! Each status that may pass and each that does not, cut connections, restarts, moved vbuckets.

use std::time::Duration;

use connect_core::{Record, SinkError, Verdict};
use couchbase_test_server::{Action, Fault, Options, Server, opcode, status};
use serde_json::json;

use crate::actions::{VALUE, cases, foreign};
use crate::support::*;

const COUNTER: [(&str, &str); 3] = [("ACTION", "counter"), ("PATH", "n"), ("TIMEOUT", "500ms")];

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_until_it_does() {
    for status in [
        status::LOCKED,
        status::TEMPORARY,
        status::BUSY,
        status::OUT_OF_MEMORY,
        status::INTERNAL,
        status::SYNC_WRITE_IN_PROGRESS,
        status::SYNC_WRITE_RECOMMIT,
        status::SYNC_WRITE_AMBIGUOUS,
        status::DURABILITY_IMPOSSIBLE,
        status::RATE_LIMITED,
        status::NOT_MY_VBUCKET,
        status::UNKNOWN_COLLECTION,
        status::UNKNOWN_SCOPE,
        status::NO_BUCKET,
        status::AUTH_STALE,
        status::INVALID,
        0x7777,
    ] {
        let (server, sink) = start(&COUNTER).await;
        assert_eq!(write_one(&sink, record(1, "k", "1")).await, None);
        server.inject(Fault::new(Action::Answer(status)).times(9));
        write_until_done(&sink, &[record(2, "k", "1"), record(3, "k", "1")]).await;
        assert_eq!(body(&server, "k"), Some(json!({"n": 3})), "{status:#x}");
        // And when a document is looked at.
        server.inject(Fault::new(Action::Answer(status)).on(opcode::LOOKUP_IN).times(3));
        write_until_done(&sink, &[record(4, "new", "1")]).await;
        assert_eq!(body(&server, "new"), Some(json!({"n": 1})), "{status:#x}");
        // And without the guard.
        let plain = crate::support::sink(&server, &[("GUARD", "off"), ("TIMEOUT", "500ms")]);
        server.inject(Fault::new(Action::Answer(status)).times(9));
        write_until_done(&plain, &[record(5, "plain", "1"), record(6, "plain", "2")]).await;
        assert_eq!(body(&server, "plain"), Some(json!(2)), "{status:#x}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_copies_are_waited_for() {
    for guard in ["on", "off"] {
        let (server, sink) = start(&[("GUARD", guard)]).await;
        server.make_durability_impossible(true);
        match try_write(&sink, &[record(1, "k", "1")]).await {
            Err(SinkError::Transient { reason: "durability", message }) => {
                assert!(message.contains("CONNECT_COUCHBASE_DURABILITY"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(body(&server, "k"), None);
        server.make_durability_impossible(false);
        write_until_done(&sink, &[record(1, "k", "1")]).await;
        assert_eq!(body(&server, "k"), Some(json!(1)));
    }
}

/// The reason is one that metrics and a person can use.
#[tokio::test(flavor = "multi_thread")]
async fn what_stays_is_named() {
    for (status, reason) in [
        (status::LOCKED, "locked"),
        (status::TEMPORARY, "busy"),
        (status::BUSY, "busy"),
        (status::OUT_OF_MEMORY, "out_of_memory"),
        (status::DURABILITY_IMPOSSIBLE, "durability"),
        (status::SYNC_WRITE_AMBIGUOUS, "durability"),
        (status::UNKNOWN_COLLECTION, "timeout"),
    ] {
        let (server, sink) = start(&[("TIMEOUT", "1500ms")]).await;
        server.inject(Fault::new(Action::Answer(status)).times(u64::MAX));
        match try_write(&sink, &[record(1, "k", "1")]).await {
            Err(SinkError::Transient { reason: told, message }) => {
                assert_eq!(told, reason, "{status:#x}: {message}");
                assert!(!message.contains("\"k\""), "the key is not told: {message}");
            }
            other => panic!("{status:#x}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_must_change_is_fatal() {
    for (status, part) in [
        (status::NO_ACCESS, "bucket_full_access"),
        (status::AUTH_ERROR, "CONNECT_COUCHBASE_PASSWORD"),
        (status::DURABILITY_INVALID, "CONNECT_COUCHBASE_DURABILITY"),
        (status::NOT_SUPPORTED, "bucket of type Couchbase"),
        (status::UNKNOWN_COMMAND, "bucket of type Couchbase"),
    ] {
        let (server, sink) = start(&[]).await;
        server.inject(Fault::new(Action::Answer(status)));
        let error = try_write(&sink, &[record(1, "k", "1")]).await.unwrap_err();
        assert!(matches!(&error, SinkError::Fatal(message) if message.contains(part)), "{status:#x}: {error:?}");
    }
    let (server, sink) = start(&[]).await;
    server.allow_system_xattrs(false);
    let error = try_write(&sink, &[record(1, "k", "1")]).await.unwrap_err();
    assert!(matches!(&error, SinkError::Fatal(message) if message.contains("bucket_full_access")), "{error:?}");
}

/// Each action, with each way in which the end of a request stays unknown.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_unknown_counts_once() {
    for action in [Action::CutBefore, Action::CutAfter, Action::Swallow, Action::Mute, Action::Ambiguous] {
        for case in cases() {
            let (server, sink) = start(&[case.pairs, &[("TIMEOUT", "500ms")]].concat()).await;
            if let Some(before) = case.before {
                server.put("k", foreign(before));
            }
            server.inject(Fault::new(action));
            let tries = write_until_done(&sink, &[record(1, "k", VALUE)]).await;
            assert!(tries > 1, "{action:?} {:?}: the fault struck", case.pairs);
            assert_eq!(body(&server, "k"), Some(case.after), "{action:?} {:?}", case.pairs);
            // And a removal.
            server.inject(Fault::new(action));
            assert!(write_until_done(&sink, &[record(2, "k", None)]).await > 1);
            assert_eq!((body(&server, "k"), mark(&server, "k")), (None, Some(2)), "{action:?} {:?}", case.pairs);
        }
        // And when it was the look at the document that went wrong.
        let (server, sink) = start(&COUNTER).await;
        server.inject(Fault::new(action).on(opcode::LOOKUP_IN));
        assert!(write_until_done(&sink, &[record(1, "k", "1"), record(2, "k", "1")]).await > 1);
        assert_eq!(body(&server, "k"), Some(json!({"n": 2})));
    }
}

/// A batch with many records of one document, which go one after the other, is written in parts: each counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_takes_long_is_ended_in_time() {
    for pairs in [&[("GUARD", "off")][..], &COUNTER[..2]] {
        let (server, sink) = start(&[pairs, &[("TIMEOUT", "1s")]].concat()).await;
        server.inject(Fault::new(Action::Late(Duration::from_millis(20))).times(u64::MAX));
        let records: Vec<Record> = (1..=200).map(|offset| record(offset, "k", "1")).collect();
        let outcome = try_write(&sink, &records).await.unwrap().into_sorted();
        let left = outcome.iter().filter(|(_, verdict)| *verdict == Verdict::Retry).count();
        assert!((1..200).contains(&left), "{pairs:?}: {left} of 200 are left");
        write_until_done(&sink, &records).await;
        let expected = if pairs == [("GUARD", "off")] { json!(1) } else { json!({"n": 200}) };
        assert_eq!(body(&server, "k"), Some(expected));
    }
}

/// Counters under a storm of every kind of fault, each n-th request another one.
#[tokio::test(flavor = "multi_thread")]
async fn counters_are_exact_in_a_storm() {
    let (server, sink) = start(&COUNTER).await;
    let actions = [
        Action::CutAfter,
        Action::Answer(status::TEMPORARY),
        Action::Ambiguous,
        Action::CutBefore,
        Action::Mute,
        Action::Answer(status::OUT_OF_MEMORY),
        Action::Late(Duration::from_millis(700)),
    ];
    for (index, action) in actions.into_iter().enumerate() {
        server.inject(Fault::new(action).every(97 + 13 * index as u64).times(4));
    }
    for batch in 0..8_i64 {
        let records: Vec<Record> =
            (batch * 500..(batch + 1) * 500).map(|offset| record(offset, &format!("k{}", offset % 50), "1")).collect();
        write_until_done(&sink, &records).await;
    }
    server.heal();
    until(|| server.late() == 0).await;
    for key in 0..50 {
        assert_eq!(body(&server, &format!("k{key}")), Some(json!({"n": 80})), "k{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_loses_and_doubles_nothing() {
    let (server, sink) = start(&COUNTER).await;
    write_until_done(&sink, &[record(0, "first", "1")]).await;
    let records: Vec<Record> = (1..4_001).map(|offset| record(offset, &format!("k{}", offset % 40), "1")).collect();
    let restarts = async {
        for round in 1..=3 {
            until(|| server.requests(opcode::MUTATE_IN) >= 500 * round).await;
            server.stop().await;
            server.resume().await.unwrap();
        }
    };
    let (_, tries) = tokio::join!(restarts, write_until_done(&sink, &records));
    assert!(tries > 1, "the load met a restart");
    for key in 0..40 {
        assert_eq!(body(&server, &format!("k{key}")), Some(json!({"n": 100})), "k{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_vbuckets_are_followed_under_load() {
    let server = Server::start(Options { nodes: 2, ..Options::default() }).await.unwrap();
    let sink = sink(&server, &COUNTER);
    write_until_done(&sink, &[record(0, "first", "1")]).await;
    let records: Vec<Record> = (1..4_001).map(|offset| record(offset, &format!("k{}", offset % 40), "1")).collect();
    let moves = async {
        for round in 1..=6 {
            until(|| server.requests(opcode::MUTATE_IN) >= 500 * round).await;
            server.move_vbuckets();
        }
    };
    tokio::join!(moves, write_until_done(&sink, &records));
    assert!(server.misdirected() > 0, "the load met a move");
    for key in 0..40 {
        assert_eq!(body(&server, &format!("k{key}")), Some(json!({"n": 100})), "k{key}");
    }
}
