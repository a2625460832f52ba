//! Every action: written, replayed, tombstone, wrong type, missing path.

use connect_core::{Record, Verdict};
use couchbase_test_server::{Document, Options, Server};
use serde_json::{Value, json};

use crate::support::*;

/// What an action does to a document that holds `before`.
pub struct Case {
    pub pairs: &'static [(&'static str, &'static str)],
    pub before: Option<&'static str>,
    pub after: Value,
}

pub fn foreign(text: &str) -> Document {
    Document { value: text.as_bytes().to_vec(), flags: 2 << 24, ..Document::default() }
}

pub const VALUE: &str = r#"{"v":1}"#;

pub fn cases() -> Vec<Case> {
    let case = |pairs, before, after| Case { pairs, before, after };
    let value = || json!({"v": 1});
    vec![
        case(&[], None, value()),
        case(&[], Some("{\"old\":1}"), value()),
        case(&[("ACTION", "insert")], None, value()),
        case(&[("ACTION", "replace")], Some("{\"old\":1}"), value()),
        case(&[("PATH", "a.b")], None, json!({"a": {"b": {"v": 1}}})),
        case(&[("PATH", "a.b")], Some("{\"a\":{\"c\":2}}"), json!({"a": {"c": 2, "b": {"v": 1}}})),
        case(&[("ACTION", "append"), ("PATH", "l")], None, json!({"l": [{"v": 1}]})),
        case(&[("ACTION", "append"), ("PATH", "l")], Some("{\"l\":[0]}"), json!({"l": [0, {"v": 1}]})),
        case(&[("ACTION", "prepend"), ("PATH", "x.l")], None, json!({"x": {"l": [{"v": 1}]}})),
        case(&[("ACTION", "prepend"), ("PATH", "l")], Some("{\"l\":[0]}"), json!({"l": [{"v": 1}, 0]})),
        case(&[("PATH", "a.b"), ("CREATE", "path")], Some("{}"), json!({"a": {"b": {"v": 1}}})),
        case(&[("ACTION", "append"), ("PATH", "x.l"), ("CREATE", "path")], Some("{}"), json!({"x": {"l": [{"v": 1}]}})),
        case(&[("ACTION", "counter"), ("PATH", "n"), ("AMOUNT", "{value.v}")], None, json!({"n": 1})),
        case(&[("ACTION", "counter"), ("PATH", "n"), ("AMOUNT", "-3")], Some("{\"n\":5}"), json!({"n": 2})),
        case(&[("ACTION", "counter"), ("AMOUNT", "7")], None, json!(7)),
        case(&[("ACTION", "counter"), ("AMOUNT", "-7")], Some("40"), json!(33)),
    ]
}

/// A record whose value is not the usual one: what it did must still be there after a replay.
#[tokio::test(flavor = "multi_thread")]
async fn each_action_counts_once_however_often_it_comes() {
    for case in cases() {
        let (server, sink) = start(case.pairs).await;
        if let Some(before) = case.before {
            server.put("k", foreign(before));
        }
        let one = || record(10, "k", VALUE);
        assert_eq!(write_one(&sink, one()).await, None, "{:?}", case.pairs);
        assert_eq!(body(&server, "k"), Some(case.after.clone()), "{:?}", case.pairs);
        assert_eq!(mark(&server, "k"), Some(10));
        let cas = server.document("k").unwrap().cas;
        // Again from memory, from another process that remembers nothing, and twice in one batch.
        let another = crate::support::sink(&server, case.pairs);
        assert_eq!(write_one(&sink, one()).await, Some(Verdict::Superseded), "{:?}", case.pairs);
        assert_eq!(write(&another, &[one(), one()]).await, [Some(Verdict::Superseded), Some(Verdict::Superseded)]);
        assert_eq!(write_one(&another, record(9, "k", r#"{"v":9}"#)).await, Some(Verdict::Superseded));
        assert_eq!(server.document("k").unwrap().cas, cas, "{:?}: nothing was written", case.pairs);
        // A tombstone deletes whatever the action is, and replays bring nothing back.
        assert_eq!(write_one(&sink, record(11, "k", None)).await, None);
        assert_eq!(body(&server, "k"), None);
        assert_eq!(mark(&server, "k"), Some(11), "the tombstone remembers");
        assert_eq!(write_one(&another, one()).await, Some(Verdict::Superseded));
        assert_eq!(body(&server, "k"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_and_insert_mind_what_is_there() {
    let (server, sink) = start(&[("ACTION", "insert")]).await;
    server.put("k", foreign("1"));
    assert_eq!(write_one(&sink, record(1, "k", VALUE)).await, Some(Verdict::Superseded));
    assert_eq!(body(&server, "k"), Some(json!(1)));

    let (server, sink) = start(&[("ACTION", "replace")]).await;
    assert!(is_rejected(&write_one(&sink, record(1, "k", VALUE)).await, "no document that could be replaced"));
    assert_eq!(body(&server, "k"), None);

    let (server, sink) = start(&[("ACTION", "remove")]).await;
    server.put("k", foreign("1"));
    assert_eq!(write_one(&sink, record(1, "k", VALUE)).await, None);
    assert_eq!(body(&server, "k"), None);
    assert_eq!(write_one(&sink, record(2, "never", VALUE)).await, None, "what is not there is removed already");
    // A replay does not remove what came later, whoever wrote it.
    let upserting = crate::support::sink(&server, &[]);
    assert_eq!(write_one(&upserting, record(2, "k", VALUE)).await, None);
    for sink in [&sink, &crate::support::sink(&server, &[("ACTION", "remove")])] {
        assert_eq!(write_one(sink, record(1, "k", VALUE)).await, Some(Verdict::Superseded));
        assert_eq!(body(&server, "k"), Some(json!({"v": 1})));
    }
}

/// Once a person has mended what a record was rejected for, it counts: with `CONNECT_DEAD_LETTERS=stop` its partition waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_record_counts_once_it_can_be_written() {
    let (server, sink) = start(&[("ACTION", "counter"), ("PATH", "n")]).await;
    server.put("k", foreign("{\"n\":\"x\"}"));
    let records = [record(1, "k", VALUE), record(2, "other", VALUE), record(3, "k", VALUE)];
    let outcome = try_write(&sink, &records).await.unwrap().into_sorted();
    assert!(matches!(&outcome[..], [(0, Verdict::Rejected(_)), (2, Verdict::Retry)]), "{outcome:?}");
    assert_eq!(body(&server, "other"), Some(json!({"n": 1})), "other documents don't wait");
    server.put("k", foreign("{\"n\":10}"));
    assert_eq!(write(&sink, &records).await, [None, Some(Verdict::Superseded), None]);
    assert_eq!(body(&server, "k"), Some(json!({"n": 12})));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_changed_is_rejected_and_stays() {
    /// Settings, the document that is there, and the reason.
    type Refused<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, &'a str);
    let no_create: [(&str, &str); 1] = [("CREATE", "nothing")];
    let cases: &[Refused<'_>] = &[
        (&[("ACTION", "append"), ("PATH", "l")], Some("{\"l\":5}"), "of another type"),
        (&[("ACTION", "prepend"), ("PATH", "l")], Some("{\"l\":{}}"), "of another type"),
        (&[("ACTION", "counter"), ("PATH", "n")], Some("{\"n\":\"x\"}"), "of another type"),
        (&[("ACTION", "counter"), ("PATH", "n")], Some("{\"n\":9223372036854775807}"), "does not fit 64 bits"),
        (&[("ACTION", "counter")], Some("{}"), "no whole number"),
        (&[("ACTION", "counter")], Some("9223372036854775807"), "does not fit 64 bits"),
        (&[("PATH", "a.b")], Some("{\"a\":[]}"), "of another type"),
        (&[("PATH", "a")], Some("no json"), "no JSON"),
        (&[("ACTION", "append"), ("PATH", "l")], Some("no json"), "no JSON"),
        (&[("ACTION", "prepend"), ("PATH", "l")], Some("no json"), "no JSON"),
        (&[("ACTION", "counter"), ("PATH", "n")], Some("no json"), "no JSON"),
        (&[("ACTION", "counter")], Some("no json"), "no whole number"),
        (&[("ACTION", "counter"), ("PATH", "a.n")], Some("{\"a\":[]}"), "of another type"),
        (&[("PATH", "a.b"), no_create[0]], Some("{}"), "has nothing at CONNECT_COUCHBASE_PATH"),
        (&[("ACTION", "counter"), ("PATH", "a.n"), no_create[0]], Some("{}"), "has nothing at CONNECT_COUCHBASE_PATH"),
        (&[("ACTION", "prepend"), ("PATH", "l"), no_create[0]], Some("{}"), "has nothing at CONNECT_COUCHBASE_PATH"),
        (&[("ACTION", "prepend"), ("PATH", "l"), no_create[0]], None, "there is no document"),
        (&[("ACTION", "append"), ("PATH", "l"), no_create[0]], None, "there is no document"),
        (&[("ACTION", "replace")], None, "no document that could be replaced"),
        (&[("PATH", "a"), no_create[0]], None, "there is no document"),
        (&[("ACTION", "append"), ("PATH", "l"), no_create[0]], Some("{}"), "has nothing at CONNECT_COUCHBASE_PATH"),
        (&[("ACTION", "counter"), no_create[0]], None, "there is no document"),
        (&[("PATH", "a.b"), ("CREATE", "path")], None, "there is no document"),
        (&[("ACTION", "counter"), ("PATH", "n"), ("CREATE", "path")], None, "there is no document"),
        (&[("PATH", "a"), ("CREATE", "path"), ("GUARD", "off")], None, "there is no document"),
        (&[("PATH", "a.b"), no_create[0], ("GUARD", "off")], Some("{}"), "has nothing at CONNECT_COUCHBASE_PATH"),
    ];
    for (pairs, before, reason) in cases {
        let (server, sink) = start(pairs).await;
        if let Some(before) = before {
            server.put("k", foreign(before));
        }
        let before = server.document("k");
        let verdict = write_one(&sink, record(1, "k", VALUE)).await;
        assert!(is_rejected(&verdict, reason), "{pairs:?}: {verdict:?}");
        assert_eq!(server.document("k"), before);
        // The document would remember what is written behind a rejected record, and the record would be superseded when it comes
        // again: so nothing is.
        let outcome = try_write(&sink, &[record(2, "k", VALUE), record(3, "k", None)]).await.unwrap().into_sorted();
        let [(0, rejected), (1, Verdict::Retry)] = &outcome[..] else { panic!("{pairs:?}: {outcome:?}") };
        assert!(is_rejected(&Some(rejected.clone()), reason), "{pairs:?}: {outcome:?}");
        assert_eq!(server.document("k"), before);
        assert_eq!(write_one(&sink, record(3, "k", None)).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_document_is_rejected() {
    let (_server, sink) = start(&[]).await;
    let value = format!("\"{}\"", "x".repeat(21 << 20));
    let large = Record { value: Some(value.into()), ..record(1, "k", None) };
    assert!(is_rejected(&write_one(&sink, large).await, "larger than Couchbase takes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_durability_reaches_the_server() {
    for (setting, level) in [("majority", 1), ("majorityAndPersistActive", 2), ("persistToMajority", 3)] {
        for guard in ["on", "off"] {
            let (server, sink) = start(&[("DURABILITY", setting), ("GUARD", guard)]).await;
            write_one(&sink, record(1, "k", VALUE)).await;
            write_one(&sink, record(2, "k", None)).await;
            assert_eq!(server.durable_writes(level), 2, "{setting} {guard}: the write and the removal");
        }
    }
    let (server, sink) = start(&[("DURABILITY", "none")]).await;
    write_one(&sink, record(1, "k", VALUE)).await;
    assert_eq!((1..=3).map(|level| server.durable_writes(level)).sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_go_into_their_collections() {
    let server = Server::start(Options::default()).await.unwrap();
    server.create_collection("shop", "orders");
    server.create_collection("shop", "t");
    let mapped = sink(&server, &[("COLLECTIONS", "t=shop.orders")]);
    assert_eq!(write_one(&mapped, record(1, "k", VALUE)).await, None);
    assert_eq!(server.documents("shop", "orders").len(), 1);
    let templated = sink(&server, &[("SCOPE", "shop"), ("COLLECTION", "{topic}")]);
    assert_eq!(write_one(&templated, record(1, "k", VALUE)).await, None);
    assert_eq!(server.documents("shop", "t").len(), 1);
    assert_eq!(server.documents("_default", "_default").len(), 0);
    // The longest ids that the server takes.
    let (elsewhere, default) = ("x".repeat(246), "x".repeat(250));
    assert_eq!(write_one(&mapped, record(2, &elsewhere, VALUE)).await, None);
    assert_eq!(write_one(&sink(&server, &[]), record(1, &default, VALUE)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_writes_tell_readers_the_format() {
    let (server, sink) = start(&[("GUARD", "off"), ("FORMAT", "binary")]).await;
    assert_eq!(write_one(&sink, record(1, "k", "no json")).await, None);
    let document = server.document("k").unwrap();
    assert_eq!((&document.value[..], document.flags), (&b"no json"[..], 3 << 24));
    assert!(document.xattrs.is_empty());

    for (pairs, after) in [
        (&[][..], json!({"v": 1})),
        (&[("ACTION", "insert")][..], json!({"old": 1})),
        (&[("ACTION", "replace")][..], json!({"v": 1})),
        (&[("PATH", "a")][..], json!({"old": 1, "a": {"v": 1}})),
    ] {
        let pairs = [pairs, &[("GUARD", "off")]].concat();
        let (server, sink) = start(&pairs).await;
        server.put("k", foreign("{\"old\":1}"));
        write_one(&sink, record(1, "k", VALUE)).await;
        write_one(&sink, record(1, "k", VALUE)).await;
        assert_eq!(body(&server, "k"), Some(after), "{pairs:?}");
        assert_eq!(server.document("k").unwrap().flags, 2 << 24);
        assert_eq!(write_one(&sink, record(2, "k", None)).await, None);
        assert_eq!(write_one(&sink, record(2, "k", None)).await, None);
        assert_eq!(body(&server, "k"), None);
    }
}
