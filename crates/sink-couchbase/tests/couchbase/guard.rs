//! What the guard keeps out, and what it costs.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use connect_core::{Record, SinkError, Verdict};
use couchbase_test_server::{Action, Document, Fault, Server, opcode};
use serde_json::json;

use crate::support::*;

const COUNTER: [(&str, &str); 2] = [("ACTION", "counter"), ("PATH", "n")];

#[tokio::test(flavor = "multi_thread")]
async fn a_document_seen_lately_costs_one_request() {
    let (server, sink) = start(&[]).await;
    for offset in 0..5 {
        assert_eq!(write_one(&sink, record(offset, "k", "1")).await, None);
    }
    assert_eq!((server.requests(opcode::LOOKUP_IN), server.requests(opcode::MUTATE_IN)), (1, 5));
    // A replay of one that was removed costs none. What is written there next has no CAS value, so it is looked at.
    write_one(&sink, record(5, "k", None)).await;
    assert_eq!(write_one(&sink, record(4, "k", "1")).await, Some(Verdict::Superseded));
    assert_eq!((server.requests(opcode::LOOKUP_IN), server.requests(opcode::MUTATE_IN)), (1, 6));
    write_one(&sink, record(6, "k", "1")).await;
    assert_eq!((server.requests(opcode::LOOKUP_IN), server.requests(opcode::MUTATE_IN)), (2, 7));
    assert_eq!(mark(&server, "k"), Some(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_is_a_document_is_remembered_too() {
    let (server, sink) = start(&[("ACTION", "counter")]).await;
    for offset in 0..5 {
        assert_eq!(write_one(&sink, record(offset, "k", "1")).await, None);
    }
    assert_eq!((server.requests(opcode::LOOKUP_IN), body(&server, "k")), (1, Some(json!(5))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_writer_is_noticed() {
    let (server, sink) = start(&COUNTER).await;
    assert_eq!(write_one(&sink, record(1, "k", "1")).await, None);
    let document = server.document("k").unwrap();
    server.put("k", Document { value: br#"{"n":100}"#.to_vec(), ..document });
    assert_eq!(write_one(&sink, record(2, "k", "1")).await, None);
    assert_eq!(body(&server, "k"), Some(json!({"n": 101})), "added to what the other one left");
    assert_eq!(write_one(&sink, record(2, "k", "1")).await, Some(Verdict::Superseded));
}

/// Where there is nothing to write no CAS value tells that what is remembered has changed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_did_since_is_noticed_also_where_nothing_would_be_written() {
    let foreign = || Document { value: b"{}".to_vec(), ..Document::default() };
    let tombstone = |server: &Server| Document { deleted: true, value: Vec::new(), ..server.document("k").unwrap() };

    let (server, sink) = start(&[]).await;
    assert_eq!(write(&sink, &[record(1, "k", "1"), record(2, "k", None)]).await, [None, None]);
    server.put("k", foreign());
    assert_eq!(write_one(&sink, record(3, "k", None)).await, None);
    assert_eq!(body(&server, "k"), None, "it was made again, and is removed again");

    let (server, sink) = start(&[("ACTION", "insert")]).await;
    assert_eq!(write_one(&sink, record(1, "k", "1")).await, None);
    server.put("k", tombstone(&server));
    assert_eq!(write_one(&sink, record(2, "k", "2")).await, None);
    assert_eq!(body(&server, "k"), Some(json!(2)), "it was removed, so there is room");

    let (server, sink) = start(&[("ACTION", "replace")]).await;
    server.put("k", foreign());
    assert_eq!(write(&sink, &[record(1, "k", "1"), record(2, "k", None)]).await, [None, None]);
    server.put("k", foreign());
    assert_eq!(write_one(&sink, record(3, "k", "3")).await, None);
    assert_eq!(body(&server, "k"), Some(json!(3)), "it was made again, so it can be replaced");
}

/// A process that stood still remembers documents as they were before another one took its partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_owner_changes_nothing() {
    for pairs in [&[][..], &COUNTER[..], &[("ACTION", "insert")][..]] {
        for last in [None, Some("9")] {
            let (server, stale) = start(pairs).await;
            let before = [record(0, "live", "1"), record(1, "gone", "1"), record(2, "gone", None)];
            assert_eq!(write(&stale, &before).await, [None, None, None]);
            let owner = sink(&server, pairs);
            let news =
                [record(3, "live", None), record(4, "live", "4"), record(5, "gone", "5"), record(6, "gone", None)];
            assert_eq!(write(&owner, &news).await, [None, None, None, None]);
            write(&owner, &[record(7, "live", last), record(8, "gone", last)]).await;
            let documents = server.documents("_default", "_default");
            // As far as it had read.
            write(&stale, &news[..3]).await;
            assert_eq!(server.documents("_default", "_default"), documents, "{pairs:?}, {last:?} was the last");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_do_not_speak_for_each_other() {
    let (server, sink) = start(&COUNTER).await;
    let of = |partition, offset| Record { partition, ..record(offset, "k", "1") };
    for (partition, offset, verdict) in [
        (0, 100, None),
        (1, 5, None),
        (0, 100, Some(Verdict::Superseded)),
        (1, 5, Some(Verdict::Superseded)),
        (1, 6, None),
    ] {
        assert_eq!(write_one(&sink, of(partition, offset)).await, verdict, "{partition}@{offset}");
    }
    assert_eq!(body(&server, "k"), Some(json!({"n": 3})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_not_superseded_by_its_former_life() {
    let (server, first) = start(&[]).await;
    take_up(&first, 1).await;
    assert_eq!(write_one(&first, record(1_000, "k", "1")).await, None);
    let second = sink(&server, &[]);
    take_up(&second, 2).await;
    assert_eq!(write_one(&second, record(0, "k", "2")).await, None);
    assert_eq!((body(&server, "k"), mark(&server, "k")), (Some(json!(2)), Some(0)));
    assert_eq!(write_one(&second, record(0, "k", "2")).await, Some(Verdict::Superseded));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_in_a_new_epoch_writes_everything_again_and_stops_who_was_left_behind() {
    for (pairs, written) in [(&[][..], json!(2)), (&[("PATH", "a")][..], json!({"a": 2}))] {
        let (server, old) = start(pairs).await;
        let in_epoch = |epoch| sink_in_epoch(epoch, &server, pairs);
        let before = [record(1_000, "k", "1"), record(1_001, "gone", "1"), record(1_002, "gone", None)];
        assert_eq!(write(&old, &before).await, [None, None, None]);

        // The same topic from its beginning: an epoch counts more than an offset.
        let replay = [record(0, "gone", "2"), record(1, "k", "2")];
        assert_eq!(write(&sink(&server, pairs), &replay).await, [Some(Verdict::Superseded), Some(Verdict::Superseded)]);
        let new = in_epoch(1);
        assert_eq!(write(&new, &replay).await, [None, None]);
        for key in ["k", "gone"] {
            assert_eq!(body(&server, key), Some(written.clone()), "{pairs:?} {key}");
        }
        assert_eq!(mark(&server, "k"), Some(1));
        // Within it everything counts once again, and it is removed for good.
        assert_eq!(write(&in_epoch(1), &replay).await, [Some(Verdict::Superseded), Some(Verdict::Superseded)]);
        assert_eq!(write_one(&new, record(2, "gone", None)).await, None);

        // The process that remembers the documents as they were, and one that has just started, at what is there and at a
        // tombstone.
        let documents = server.documents("_default", "_default");
        for stale in [&old, &in_epoch(0)] {
            for late in [record(1_003, "k", "3"), record(1_003, "k", None), record(1_003, "gone", "3")] {
                let error = try_write(stale, &[late]).await.unwrap_err();
                assert!(matches!(&error, SinkError::Fatal(why) if why.contains("Set CONNECT_EPOCH=1")), "{error:?}");
            }
        }
        assert_eq!(server.documents("_default", "_default"), documents, "{pairs:?}: it changed nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_request_changes_nothing() {
    for pairs in [&[][..], &COUNTER[..], &[("ACTION", "append"), ("PATH", "l")][..]] {
        let pairs = [pairs, &[("TIMEOUT", "300ms")]].concat();
        let (server, sink) = start(&pairs).await;
        assert_eq!(write_one(&sink, record(1, "k", "1")).await, None);
        server.inject(Fault::new(Action::Late(Duration::from_millis(900))));
        assert!(try_write(&sink, &[record(2, "k", "2")]).await.is_err(), "no answer in time");
        write_until_done(&sink, &[record(2, "k", "2"), record(3, "k", "3")]).await;
        let document = server.document("k").unwrap();
        until(|| server.late() == 0).await;
        assert_eq!(server.document("k").unwrap(), document, "{pairs:?}");

        server.inject(Fault::new(Action::Late(Duration::from_millis(900))));
        assert!(try_write(&sink, &[record(4, "k", "4")]).await.is_err(), "no answer in time");
        write_until_done(&sink, &[record(4, "k", "4"), record(5, "k", None)]).await;
        until(|| server.late() == 0).await;
        assert_eq!((body(&server, "k"), mark(&server, "k")), (None, Some(5)), "{pairs:?}: it stays removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_keeps_in_the_attribute_is_left_alone() {
    let (server, sink) = start(&[]).await;
    let xattrs = serde_json::from_value(json!({"_connect": {"t-0": "mine"}})).unwrap();
    server.put("k", Document { value: b"{}".to_vec(), xattrs, ..Document::default() });
    assert!(is_rejected(&write_one(&sink, record(1, "k", "1")).await, "no connector wrote"));
    assert_eq!(body(&server, "k"), Some(json!({})));
    let xattrs = serde_json::from_value(json!({"_connect": "mine"})).unwrap();
    server.put("k", Document { value: b"{}".to_vec(), xattrs, ..Document::default() });
    assert!(is_rejected(&write_one(&sink, record(1, "k", "1")).await, "no connector wrote"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_one_key_stay_in_order_and_keys_go_side_by_side() {
    let (server, sink) = start(&[("ACTION", "append"), ("PATH", "l"), ("MAX_IN_FLIGHT", "64")]).await;
    let records: Vec<Record> = (0..1_000)
        .map(|offset| Record {
            value: Some(offset.to_string().into()),
            ..record(offset, &format!("k{}", offset % 7), None)
        })
        .collect();
    assert!(write(&sink, &records).await.iter().all(Option::is_none));
    for key in 0..7 {
        let expected: Vec<i64> = (0..1_000).filter(|offset| offset % 7 == key).collect();
        assert_eq!(body(&server, &format!("k{key}")), Some(json!({"l": expected})));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_requests_are_under_way_than_allowed() {
    let (server, sink) = start(&[("GUARD", "off"), ("MAX_IN_FLIGHT", "16")]).await;
    server.inject(Fault::new(Action::Late(Duration::from_millis(20))).times(u64::MAX));
    let of = |partition| {
        let record = |offset| Record { partition, ..record(offset, &format!("{partition}-{offset}"), "1") };
        (0..200).map(record).collect::<Vec<Record>>()
    };
    let (first, second) = (of(0), of(1));
    let most = AtomicUsize::new(0);
    let watch = async {
        loop {
            most.fetch_max(server.late(), Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let write = async { tokio::join!(write_until_done(&sink, &first), write_until_done(&sink, &second)) };
    tokio::select! {
        () = watch => {}
        _ = write => {}
    }
    let most = most.into_inner();
    assert!((9..=16).contains(&most), "{most} requests were under way at once, of all partitions together");
}
