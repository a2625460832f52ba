//! When documents end: by the record, not by the moment of the write, so that a replay does not prolong it.

use std::time::{SystemTime, UNIX_EPOCH};

use connect_core::{Header, Record, Verdict};
use couchbase_test_server::Document;
use serde_json::json;

use crate::actions::{VALUE, cases, foreign};
use crate::support::*;

/// Milliseconds since the epoch.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_counts_from_the_record_and_replays_do_not_prolong_it() {
    let (server, sink) = start(&[("EXPIRY", "1h")]).await;
    let now = now();
    let fresh = |offset| Record { timestamp: now, ..record(offset, "k", VALUE) };
    let expected = Some((now / 1000 + 3600) as u32);
    assert_eq!(write_one(&sink, fresh(1)).await, None);
    assert_eq!(server.document("k").map(|document| document.expiry), expected);
    assert_eq!(write_one(&sink, fresh(1)).await, Some(Verdict::Superseded));
    assert_eq!(server.document("k").map(|document| document.expiry), expected);
    // An old record: its document is gone at once.
    assert_eq!(write_one(&sink, record(2, "k", VALUE)).await, Some(Verdict::Expired));
    assert_eq!(body(&server, "k"), None);

    let touching = crate::support::sink(&server, &[("ACTION", "touch"), ("EXPIRY", "1h")]);
    server.put("touched", foreign("{\"stays\":1}"));
    assert_eq!(write_one(&touching, Record { key: Some("touched".into()), ..fresh(1) }).await, None);
    assert_eq!(server.document("touched").map(|document| document.expiry), expected);
    assert_eq!((body(&server, "touched"), mark(&server, "touched")), (Some(json!({"stays": 1})), Some(1)));
    assert_eq!(write_one(&touching, record(2, "absent", VALUE)).await, Some(Verdict::Superseded));
    // Another program made it live on: a replay does not end that.
    let touched = server.document("touched").unwrap();
    server.put("touched", Document { expiry: u32::MAX, ..touched });
    let again = || Record { key: Some("touched".into()), ..fresh(1) };
    for touching in [&touching, &crate::support::sink(&server, &[("ACTION", "touch"), ("EXPIRY", "1h")])] {
        assert_eq!(write_one(touching, again()).await, Some(Verdict::Superseded));
        assert_eq!(server.document("touched").map(|document| document.expiry), Some(u32::MAX));
    }
    assert_eq!(
        write_one(&touching, record(2, "touched", None)).await,
        None,
        "a tombstone removes, whatever the action"
    );
    assert_eq!(body(&server, "touched"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_kept_where_it_should_be() {
    let expiring = |text: &str| Document { expiry: u32::MAX, ..foreign(text) };
    for (pairs, expiry) in [
        (&[][..], 0),
        (&[("PRESERVE_EXPIRY", "true")][..], u32::MAX),
        (&[("PATH", "a")][..], u32::MAX),
        (&[("ACTION", "append"), ("PATH", "l")][..], u32::MAX),
    ] {
        let (server, sink) = start(pairs).await;
        server.put("k", expiring("{}"));
        assert_eq!(write_one(&sink, record(1, "k", VALUE)).await, None);
        assert_eq!(server.document("k").unwrap().expiry, expiry, "{pairs:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_sets_the_end_that_the_record_names() {
    let end = now() / 1000 + 3600;
    let one = |offset| Record {
        headers: vec![Header { key: "end".into(), value: Some((end * 1000).to_string().into()) }],
        timestamp: -1,
        ..record(offset, "k", VALUE)
    };
    for case in cases() {
        let accumulates = case.pairs.iter().any(|(_, value)| ["append", "prepend", "counter"].contains(value));
        for guard in if accumulates { &["on"][..] } else { &["on", "off"] } {
            let pairs = [case.pairs, &[("EXPIRY_FROM", "header:end"), ("GUARD", guard)]].concat();
            let (server, sink) = start(&pairs).await;
            if let Some(before) = case.before {
                server.put("k", Document { expiry: u32::MAX, ..foreign(before) });
            }
            assert_eq!(write_one(&sink, one(1)).await, None, "{pairs:?}");
            assert_eq!(server.document("k").map(|document| i64::from(document.expiry)), Some(end), "{pairs:?}");
            assert_eq!(body(&server, "k"), Some(case.after.clone()), "{pairs:?}");
            write_one(&sink, one(1)).await;
            assert_eq!(server.document("k").map(|document| i64::from(document.expiry)), Some(end), "{pairs:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_may_stand_in_the_value_and_be_over() {
    let (server, sink) = start(&[("EXPIRY_FROM", "value.end"), ("EXPIRY", "1h")]).await;
    let ending =
        |offset, end: &str| Record { value: Some(json!({"end": end}).to_string().into()), ..record(offset, "k", None) };
    assert_eq!(write_one(&sink, ending(1, "2099-12-31T23:00:00+01:00")).await, None);
    assert_eq!(server.document("k").map(|document| document.expiry), Some(4_102_441_200));
    // What it was before is gone, too.
    assert_eq!(write_one(&sink, ending(2, "2001-01-01T00:00:00Z")).await, Some(Verdict::Expired));
    assert_eq!(body(&server, "k"), None);
    // A replay does not bring it back, and a tombstone names no time.
    assert_ne!(write_one(&sink, ending(1, "2099-12-31T23:00:00+01:00")).await, None);
    assert_eq!(body(&server, "k"), None);
    assert_eq!(write_one(&sink, record(3, "k", None)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_life_that_begins_with_the_write_is_prolonged_by_a_replay() {
    for (guard, prolonged) in [("on", false), ("off", true)] {
        let (server, sink) = start(&[("EXPIRY_FROM", "now"), ("EXPIRY", "1h"), ("GUARD", guard)]).await;
        let earliest = now() / 1000 + 3600;
        // Its own time is long over, and does not count.
        assert_eq!(write_one(&sink, record(1, "k", VALUE)).await, None, "{guard}");
        let document = server.document("k").unwrap();
        let end = i64::from(document.expiry);
        assert!((earliest..=now() / 1000 + 3600).contains(&end), "{guard}: {end}");
        server.put("k", Document { expiry: document.expiry - 60, ..document });
        write_one(&sink, record(1, "k", VALUE)).await;
        let again = i64::from(server.document("k").unwrap().expiry);
        assert_eq!(again >= end, prolonged, "{guard}: {end} {again}");
    }
}
