//! Several buckets: each with a client of its own, and none waits for another one.

use std::time::{Duration, Instant};

use connect_core::{Record, Sink, SinkError, Verdict};
use couchbase_test_server::{Action, Fault, Options, Server, opcode};

use crate::support::*;

const BY_VALUE: (&str, &str) = ("BUCKET", "{value.b}");

async fn server() -> Server {
    let server = Server::start(Options { nodes: 2, ..Options::default() }).await.unwrap();
    server.create_bucket("other");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_go_into_their_buckets() {
    let server = server().await;
    server.create_collection_in("my.bucket", "shop", "orders");
    let records = [
        record(1, "k", r#"{"b":"other"}"#),
        record(2, "k", r#"{"b":"default"}"#),
        record(3, "k", r#"{"b":"other","n":1}"#),
        record(4, "l", r#"{"b":"my.bucket"}"#),
    ];
    for guard in ["on", "off"] {
        let sink = sink(&server, &[BY_VALUE, ("ID", &format!("{guard}-{{key}}")), ("GUARD", guard)]);
        sink.check().await.unwrap();
        assert_eq!(write(&sink, &records).await, [None, None, None, None], "the same id is another document elsewhere");
        let values = |bucket: &str| -> Vec<String> {
            let documents = server.documents_in(bucket, "_default", "_default").into_iter();
            let ours = documents.filter(|(id, _)| id.starts_with(&format!("{guard}-")));
            ours.map(|(id, document)| format!("{id} {}", String::from_utf8(document.value).unwrap())).collect()
        };
        assert_eq!(values("default"), [format!(r#"{guard}-k {{"b":"default"}}"#)]);
        assert_eq!(values("other"), [format!(r#"{guard}-k {{"b":"other","n":1}}"#)]);
        assert_eq!(values("my.bucket"), [format!(r#"{guard}-l {{"b":"my.bucket"}}"#)]);
    }
    let replayed = write(&sink(&server, &[BY_VALUE, ("ID", "on-{key}")]), &records).await;
    assert!(replayed.iter().all(|verdict| *verdict == Some(Verdict::Superseded)), "{replayed:?}");

    let by_topic = sink(&server, &[("COLLECTIONS", "t=my.bucket.shop.orders,u=_default._default")]);
    by_topic.check().await.unwrap();
    assert_eq!(write_one(&by_topic, record(1, "t", "1")).await, None);
    assert_eq!(server.documents_in("my.bucket", "shop", "orders").into_keys().collect::<Vec<_>>(), ["t"]);
    assert_eq!(write_one(&by_topic, Record { topic: "u".into(), ..record(1, "u", "1") }).await, None);
    assert!(body(&server, "u").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_the_settings_name_must_be_there() {
    let server = server().await;
    for pairs in [[("BUCKET", "gone")], [("COLLECTIONS", "t=gone.shop.orders")]] {
        let sink = sink(&server, &pairs);
        let fatal = |result: Result<(), SinkError>| match result {
            Err(SinkError::Fatal(message)) => assert!(message.contains("no bucket gone"), "{message}"),
            other => panic!("{other:?}"),
        };
        fatal(sink.check().await);
        let begun = Instant::now();
        fatal(try_write(&sink, &[record(1, "k", "1")]).await.map(drop));
        assert!(begun.elapsed() < Duration::from_secs(5), "it is told at once and not after a time-out");
    }
    assert!(matches!(sink(&server, &[BY_VALUE, ("PASSWORD", "wrong")]).check().await, Err(SinkError::Fatal(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_a_record_names_holds_up_its_own_records_only() {
    let server = server().await;
    let sink = sink(&server, &[BY_VALUE]);
    let mut records: Vec<Record> =
        (0..300).map(|offset| record(offset, &format!("k{offset}"), r#"{"b":"late"}"#)).collect();
    records.push(record(300, "k", r#"{"b":"other"}"#));
    let outcome = try_write(&sink, &records).await.unwrap();
    assert_eq!(outcome.exceptions().len(), 300);
    assert!(outcome.exceptions().iter().all(|(index, verdict)| *index < 300 && *verdict == Verdict::Retry));
    assert_eq!(server.documents_in("other", "_default", "_default").len(), 1);
    match try_write(&sink, &records[..1]).await {
        Err(SinkError::Transient { reason: "no_bucket", message }) => assert!(message.contains("late"), "{message}"),
        other => panic!("{other:?}"),
    }
    server.create_bucket("late");
    write_until_done(&sink, &records).await;
    assert_eq!(server.documents_in("late", "_default", "_default").len(), 300);
}

/// What is written to one bucket says nothing about the client of another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gets_no_answers_is_replaced_though_others_work() {
    let server = server().await;
    let sink = sink(&server, &[BY_VALUE, ("TIMEOUT", "300ms")]);
    let records = |offset| [record(offset, "x", r#"{"b":"other"}"#), record(offset + 1, "y", r#"{"b":"default"}"#)];
    write_until_done(&sink, &records(0)).await;
    server.inject(Fault::new(Action::Swallow).key("x").times(3));
    server.inject(Fault::new(Action::Swallow).on(opcode::LOOKUP_IN).key("x").times(3));
    let hellos = server.requests(opcode::HELLO);
    assert!(write_until_done(&sink, &records(2)).await > 1, "the fault struck");
    assert!(server.requests(opcode::HELLO) > hellos, "a new connection was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_made_side_by_side() {
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("couchbase://{}", silent.local_addr().unwrap());
    let server = server().await;
    let sink = sink(&server, &[("URL", &url), ("BUCKET", "b{offset}"), ("TIMEOUT", "500ms")]);
    let records: Vec<Record> = (0..10).map(|offset| record(offset, "k", "1")).collect();
    let begun = Instant::now();
    assert!(matches!(
        try_write(&sink, &records).await,
        Err(SinkError::Transient { reason: "timeout" | "connection", .. })
    ));
    assert!(begun.elapsed() < Duration::from_secs(4), "ten attempts took {:?}", begun.elapsed());
}
