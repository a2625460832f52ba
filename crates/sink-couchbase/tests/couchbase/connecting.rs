//! What `check` tells, and that nothing waits for ever.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use connect_core::{Record, Sink, SinkError};
use couchbase_test_server::{Action, Fault};
use couchbase_test_server::{Certificates, Options, Server, opcode, status};

use sink_couchbase::CouchbaseSink;

use crate::support::*;

async fn check(server: &Server, pairs: &[(&str, &str)]) -> Result<(), SinkError> {
    let sink = sink(server, pairs);
    tokio::time::timeout(Duration::from_secs(30), sink.check()).await.expect("check is bounded")
}

async fn fatal(server: &Server, pairs: &[(&str, &str)]) -> String {
    match check(server, pairs).await {
        Err(SinkError::Fatal(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_what_is_missing() {
    let server = Server::start(Options::default()).await.unwrap();
    server.create_collection("shop", "orders");
    check(&server, &[]).await.unwrap();
    check(&server, &[("GUARD", "off"), ("SCOPE", "shop"), ("COLLECTION", "orders")]).await.unwrap();
    assert_eq!(server.documents("shop", "orders").len(), 0, "check changes nothing");
    let message = fatal(&server, &[("PASSWORD", "hunter2")]).await;
    assert!(message.contains("CONNECT_COUCHBASE_PASSWORD") && !message.contains("hunter2"), "{message}");
    assert!(fatal(&server, &[("USERNAME", "nobody")]).await.contains("CONNECT_COUCHBASE_USERNAME"));
    assert!(fatal(&server, &[("BUCKET", "none")]).await.contains("no bucket none"));
    assert!(fatal(&server, &[("SCOPE", "none")]).await.contains("no collection none._default"));
    assert!(fatal(&server, &[("SCOPE", "shop"), ("COLLECTION", "none")]).await.contains("no collection shop.none"));
    assert!(fatal(&server, &[("COLLECTIONS", "t=shop.gone")]).await.contains("no collection shop.gone"));
    server.inject(Fault::new(Action::Answer(status::NO_ACCESS)).on(opcode::MUTATE_IN));
    assert!(fatal(&server, &[]).await.contains("bucket_full_access"));
    // Data Writer alone.
    server.allow_system_xattrs(false);
    assert!(fatal(&server, &[]).await.contains("bucket_full_access"));
    check(&server, &[("GUARD", "off")]).await.unwrap();
    assert_eq!(server.documents("_default", "_default").len(), 0, "check changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_down_or_silent_is_transient() {
    let down = sink_to("couchbase://127.0.0.1:1");
    assert!(matches!(down.check().await, Err(SinkError::Transient { reason: "connection", .. })));
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = sink_to(&format!("couchbase://{}", silent.local_addr().unwrap()));
    assert!(matches!(silent.check().await, Err(SinkError::Transient { .. })));
}

fn sink_to(url: &str) -> sink_couchbase::CouchbaseSink {
    use connect_core::config::Section;
    let pairs = [
        ("CONNECT_COUCHBASE_URL", url),
        ("CONNECT_COUCHBASE_USERNAME", "u"),
        ("CONNECT_COUCHBASE_PASSWORD", "p"),
        ("CONNECT_COUCHBASE_BUCKET", "b"),
        ("CONNECT_COUCHBASE_TIMEOUT", "500ms"),
    ];
    CouchbaseSink::new(sink_couchbase::CouchbaseConfig::from_pairs(&pairs).unwrap(), &context()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_with_a_wrong_password_ends_too() {
    let server = Server::start(Options::default()).await.unwrap();
    let sink = sink(&server, &[("PASSWORD", "wrong"), ("TIMEOUT", "1s")]);
    assert!(matches!(try_write(&sink, &[record(1, "k", "1")]).await, Err(SinkError::Fatal(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_collection_holds_up_its_own_records_only() {
    let server = Server::start(Options::default()).await.unwrap();
    let sink = sink(&server, &[("COLLECTION", "{value.c}"), ("TIMEOUT", "500ms")]);
    let outcome = try_write(&sink, &[record(1, "a", r#"{"c":"none"}"#), record(2, "b", r#"{"c":"_default"}"#)]).await;
    assert_eq!(outcome.unwrap().exceptions(), [(0, connect_core::Verdict::Retry)]);
    assert!(body(&server, "b").is_some());
    server.create_collection("_default", "none");
    write_until_done(&sink, &[record(1, "a", r#"{"c":"none"}"#)]).await;
    assert_eq!(server.documents("_default", "none").len(), 1);
}

/// The client would wait for ever for a node that comes back under another address.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gets_no_answers_is_replaced() {
    let server = Server::start(Options::default()).await.unwrap();
    let sink = sink(&server, &[("TIMEOUT", "300ms")]);
    write_until_done(&sink, &[record(1, "k", "1")]).await;
    server.inject(Fault::new(Action::Swallow).times(3));
    server.inject(Fault::new(Action::Swallow).on(opcode::LOOKUP_IN).times(3));
    let hellos = server.requests(opcode::HELLO);
    write_until_done(&sink, &[record(2, "k", "2")]).await;
    assert!(server.requests(opcode::HELLO) > hellos, "a new connection was made");
    until(|| server.connections() == 1).await;
}

/// Many partitions don't wait for a cluster that says nothing one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_share_an_attempt_to_connect() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sink = sink_to(&format!("couchbase://{}", silent.local_addr().unwrap()));
    let (mut kept, accepted) = (Vec::new(), AtomicUsize::new(0));
    let accept = async {
        loop {
            kept.push(silent.accept().await.unwrap());
            accepted.fetch_add(1, Relaxed);
        }
    };
    let write = async {
        let records = [record(1, "k", "1")];
        assert!(try_write(&sink, &records).await.is_err());
        let alone = accepted.swap(0, Relaxed);
        let together = (0..8).map(|_| try_write(&sink, &records));
        assert!(futures::future::join_all(together).await.iter().all(Result::is_err));
        // An attempt is one connection or a few, as time allows; eight attempts would be eight times as many.
        assert!(accepted.load(Relaxed) < 8 * alone, "{accepted:?} for eight, {alone} for one");
    };
    tokio::select! {
        () = accept => {}
        () = write => {}
    }
}

#[test]
fn an_answer_may_take_a_third_of_a_write() {
    let server = tokio::runtime::Runtime::new().unwrap().block_on(Server::start(Options::default())).unwrap();
    let new = |pairs: &[(&str, &str)]| {
        let mut context = context();
        context.settings.write_timeout = Duration::from_secs(4);
        CouchbaseSink::new(config(&server, pairs), &context).map(drop)
    };
    assert_eq!(new(&[]), Ok(()), "a shorter time for a write shortens that of an answer");
    assert_eq!(new(&[("TIMEOUT", "1s")]), Ok(()));
    let problem = new(&[("TIMEOUT", "2s")]).unwrap_err();
    assert!(problem.contains("CONNECT_COUCHBASE_TIMEOUT=2s"), "{problem}");
    assert!(problem.contains("CONNECT_WRITE_TIMEOUT=4s"), "{problem}");
}

/// The core would drop what takes longer, and what was done until then would count for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_ends_within_its_time_however_slow_the_answers_are() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut context = context();
    context.settings.write_timeout = Duration::from_secs(3);
    // One request at a time, so that the writes wait for each other too.
    let sink = CouchbaseSink::new(config(&server, &[("MAX_IN_FLIGHT", "1")]), &context).unwrap();
    write_until_done(&sink, &[record(0, "first", "1")]).await;
    server.inject(Fault::new(Action::Late(Duration::from_millis(800))).on(opcode::LOOKUP_IN).times(u64::MAX));
    server.inject(Fault::new(Action::Swallow).times(u64::MAX));
    let write = async |partition| {
        let records = (1..20).map(|offset| Record { partition, ..record(offset, &format!("k{offset}"), "1") });
        let begun = Instant::now();
        let _ = try_write(&sink, &records.collect::<Vec<_>>()).await;
        begun.elapsed()
    };
    for took in futures::future::join_all((0..4).map(write)).await {
        assert!(took < context.settings.write_timeout, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_seed_is_passed_over() {
    let server = Server::start(Options::default()).await.unwrap();
    let url = server.url().replace("couchbase://", "couchbase://127.0.0.1:1,");
    check(&server, &[("URL", &url)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_private_authority_and_with_a_client_certificate() {
    let certificates = Certificates::generate().unwrap();
    let server = Server::start(Options { tls: Some(certificates.clone()), ..Options::default() }).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let authority = file("ca.pem", &certificates.authority);
    let with_password = sink(&server, &[("CA_FILE", &authority)]);
    with_password.check().await.unwrap();
    assert_eq!(write_one(&with_password, record(1, "k", "1")).await, None);

    let (cert, key) = (file("cert.pem", &certificates.client), file("key.pem", &certificates.client_key));
    let url = server.url();
    let pairs = [
        ("CONNECT_COUCHBASE_URL", url.as_str()),
        ("CONNECT_COUCHBASE_BUCKET", "default"),
        ("CONNECT_COUCHBASE_CA_FILE", &authority),
        ("CONNECT_COUCHBASE_CERT_FILE", &cert),
        ("CONNECT_COUCHBASE_KEY_FILE", &key),
    ];
    let config = <sink_couchbase::CouchbaseConfig as connect_core::config::Section>::from_pairs(&pairs).unwrap();
    let with_certificate = CouchbaseSink::new(config, &context()).unwrap();
    with_certificate.check().await.unwrap();
    assert_eq!(write_one(&with_certificate, record(2, "k", "2")).await, None);

    let stranger = file("other.pem", &Certificates::generate().unwrap().authority);
    let error = check(&server, &[("CA_FILE", &stranger), ("TIMEOUT", "1s")]).await.unwrap_err();
    assert!(matches!(&error, SinkError::Transient { message, .. } if message.contains("127.0.0.1")), "{error:?}");
}
