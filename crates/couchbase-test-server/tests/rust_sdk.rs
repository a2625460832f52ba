//! Couchbase's Rust SDK takes the server for a cluster.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::sync::OnceLock;
use std::time::Duration;

use couchbase::authenticator::PasswordAuthenticator;
use couchbase::bucket::Bucket;
use couchbase::cluster::Cluster;
use couchbase::durability_level::DurabilityLevel;
use couchbase::error::{Error, ErrorKind};
use couchbase::options::cluster_options::{ClusterOptions, TlsOptions};
use couchbase::options::kv_binary_options::IncrementOptions;
use couchbase::options::kv_options::*;
use couchbase::subdoc::lookup_in_specs::{GetSpecOptions, LookupInSpec};
use couchbase::subdoc::mutate_in_specs::*;
use couchbase_test_server::{Action, Certificates, Fault, Options, Server, opcode, status};
use serde_json::{Value, json};

/// Long enough for a busy machine; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("an answer in time")
}

async fn connect(server: &Server) -> Bucket {
    connect_to(server, "default").await
}

async fn connect_to(server: &Server, bucket: &str) -> Bucket {
    let options = ClusterOptions::new(PasswordAuthenticator::new("Administrator", "password").into());
    let cluster = within(Cluster::connect(server.url(), options)).await.unwrap();
    static CLUSTERS: OnceLock<std::sync::Mutex<Vec<Cluster>>> = OnceLock::new();
    let bucket = cluster.bucket(bucket);
    // A bucket is of no use once its cluster is dropped.
    CLUSTERS.get_or_init(Default::default).lock().unwrap().push(cluster);
    within(bucket.wait_until_ready(None)).await.unwrap();
    bucket
}

async fn start() -> (Server, Bucket) {
    let server = Server::start(Options::default()).await.unwrap();
    let bucket = connect(&server).await;
    (server, bucket)
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.expect_err("an error").kind().clone()
}

#[tokio::test]
async fn whole_documents() {
    let (server, bucket) = start().await;
    let documents = bucket.default_collection();
    within(documents.upsert("a", json!({"n": 1}), None)).await.unwrap();
    assert_eq!(within(documents.get("a", None)).await.unwrap().content_as::<Value>().unwrap(), json!({"n": 1}));
    assert_eq!(kind(within(documents.get("none", None)).await), ErrorKind::DocumentNotFound);
    assert_eq!(kind(within(documents.insert("a", json!({}), None)).await), ErrorKind::DocumentExists);
    assert_eq!(kind(within(documents.replace("none", json!({}), None)).await), ErrorKind::DocumentNotFound);
    let cas = within(documents.replace("a", json!({"n": 2}), None)).await.unwrap().cas();
    within(documents.replace("a", json!({"n": 3}), ReplaceOptions::new().cas(cas))).await.unwrap();
    let stale = ReplaceOptions::new().cas(cas);
    assert_eq!(kind(within(documents.replace("a", json!({"n": 4}), stale)).await), ErrorKind::CasMismatch);
    assert_eq!(kind(within(documents.remove("a", RemoveOptions::new().cas(cas))).await), ErrorKind::CasMismatch);
    assert!(within(documents.exists("a", None)).await.unwrap().exists());
    within(documents.remove("a", None)).await.unwrap();
    assert!(!within(documents.exists("a", None)).await.unwrap().exists());
    assert_eq!(kind(within(documents.remove("a", None)).await), ErrorKind::DocumentNotFound);
    assert!(server.document("a").unwrap().deleted);

    let long = "x".repeat(100_000);
    within(documents.upsert("long", &long, None)).await.unwrap();
    assert_eq!(within(documents.get("long", None)).await.unwrap().content_as::<String>().unwrap(), long);
    let too_long = "y".repeat(21 << 20);
    assert_eq!(kind(within(documents.upsert("long", &too_long, None)).await), ErrorKind::ValueTooLarge);

    let counter = documents.binary();
    let count = |delta| counter.increment("counter", IncrementOptions::new().initial(10).delta(delta));
    assert_eq!(within(count(3)).await.unwrap().content(), 10);
    assert_eq!(within(count(3)).await.unwrap().content(), 13);
}

#[tokio::test]
async fn parts_of_documents() {
    let (server, bucket) = start().await;
    let documents = bucket.default_collection();
    let create = || UpsertSpecOptions::new().create_path(true);
    let upsert = || MutateInOptions::new().store_semantics(StoreSemantics::Upsert);
    let change = [
        MutateInSpec::upsert("_mark.of", 7, create().xattr(true)).unwrap(),
        MutateInSpec::upsert("a.b", 1, create()).unwrap(),
        MutateInSpec::increment("count", 5, None).unwrap(),
        MutateInSpec::array_append("list", &[2, 3], ArrayAppendSpecOptions::new().create_path(true)).unwrap(),
        MutateInSpec::array_prepend("list", &[1], None).unwrap(),
    ];
    assert_eq!(
        kind(within(documents.mutate_in("d", &change, MutateInOptions::new())).await),
        ErrorKind::DocumentNotFound
    );
    within(documents.mutate_in("d", &change, upsert())).await.unwrap();
    let found = server.document("d").unwrap();
    let body: Value = serde_json::from_slice(&found.value).unwrap();
    assert_eq!(body, json!({"a": {"b": 1}, "count": 5, "list": [1, 2, 3]}));
    assert_eq!(Value::Object(found.xattrs), json!({"_mark": {"of": 7}}));

    // All or nothing.
    let half = [MutateInSpec::upsert("a.c", 1, None).unwrap(), MutateInSpec::replace("no.such", 1, None).unwrap()];
    assert_eq!(kind(within(documents.mutate_in("d", &half, None)).await), ErrorKind::PathNotFound);
    let wrong = [MutateInSpec::array_append("count", &[1], None).unwrap()];
    assert_eq!(kind(within(documents.mutate_in("d", &wrong, None)).await), ErrorKind::PathMismatch);
    assert_eq!(server.document("d").unwrap().cas, found.cas);

    // A replaced body keeps the attributes, and a CAS value guards both.
    let replace = [
        MutateInSpec::upsert("_mark.of", 8, create().xattr(true)).unwrap(),
        MutateInSpec::replace("", json!({"new": true}), None).unwrap(),
    ];
    let stale = kind(within(documents.mutate_in("d", &replace, MutateInOptions::new().cas(1))).await);
    assert!(matches!(stale, ErrorKind::CasMismatch | ErrorKind::DocumentExists), "{stale:?}");
    within(documents.mutate_in("d", &replace, MutateInOptions::new().cas(found.cas))).await.unwrap();
    let attribute = LookupInSpec::get("_mark.of", GetSpecOptions::new().xattr(true));
    let read = within(documents.lookup_in("d", &[attribute.clone(), LookupInSpec::get("", None)], None)).await.unwrap();
    assert_eq!((read.content_as::<i64>(0).unwrap(), read.content_as::<Value>(1).unwrap()), (8, json!({"new": true})));

    // What a system attribute says outlives the document.
    within(documents.remove("d", None)).await.unwrap();
    assert_eq!(
        kind(within(documents.lookup_in("d", std::slice::from_ref(&attribute), None)).await),
        ErrorKind::DocumentNotFound
    );
    let buried = within(documents.lookup_in("d", &[attribute], LookupInOptions::new().access_deleted(true))).await;
    assert_eq!(buried.unwrap().content_as::<i64>(0).unwrap(), 8);

    let macros = [MutateInSpec::insert_raw("_cas", br#""${Mutation.CAS}""#.to_vec(), None)];
    within(documents.mutate_in("m", &macros, upsert())).await.unwrap();
    let stamped = server.document("m").unwrap();
    assert_eq!(stamped.xattrs["_cas"], format!("0x{:016x}", stamped.cas.swap_bytes()));
}

#[tokio::test]
async fn expiry_and_durability() {
    let (server, bucket) = start().await;
    let documents = bucket.default_collection();
    let expiring = UpsertOptions::new().expiry(Duration::from_secs(600));
    within(documents.upsert("e", json!(1), expiring)).await.unwrap();
    let expiry = server.document("e").unwrap().expiry;
    assert!(expiry > 600);
    within(documents.upsert("e", json!(2), UpsertOptions::new().preserve_expiry(true))).await.unwrap();
    assert_eq!(server.document("e").unwrap().expiry, expiry);
    within(documents.upsert("e", json!(3), None)).await.unwrap();
    assert_eq!(server.document("e").unwrap().expiry, 0);
    // A moment in the past is a deletion.
    server.put("e", couchbase_test_server::Document { expiry: 1, ..server.document("e").unwrap() });
    assert_eq!(kind(within(documents.get("e", None)).await), ErrorKind::DocumentNotFound);

    let levels =
        [DurabilityLevel::MAJORITY, DurabilityLevel::MAJORITY_AND_PERSIST_ACTIVE, DurabilityLevel::PERSIST_TO_MAJORITY];
    for (level, number) in levels.into_iter().zip(1..) {
        within(documents.upsert("d", json!(1), UpsertOptions::new().durability_level(level))).await.unwrap();
        assert_eq!(server.durable_writes(number), 1);
    }
    server.make_durability_impossible(true);
    let durable = UpsertOptions::new().durability_level(DurabilityLevel::MAJORITY);
    assert_eq!(kind(within(documents.upsert("d", json!(1), durable)).await), ErrorKind::DurabilityImpossible);
}

#[tokio::test]
async fn collections() {
    let (server, bucket) = start().await;
    within(bucket.collections().create_scope("s", None)).await.unwrap();
    within(bucket.collections().create_collection("s", "c", None, None)).await.unwrap();
    within(bucket.scope("s").collection("c").upsert("k", json!(1), None)).await.unwrap();
    assert_eq!(kind(within(bucket.default_collection().get("k", None)).await), ErrorKind::DocumentNotFound);
    assert_eq!(server.documents("s", "c").into_keys().collect::<Vec<_>>(), ["k"]);
}

#[tokio::test]
async fn buckets() {
    let server = Server::start(Options { nodes: 2, ..Options::default() }).await.unwrap();
    server.create_bucket("other");
    for bucket in ["default", "other"] {
        let documents = connect_to(&server, bucket).await.default_collection();
        assert_eq!(kind(within(documents.get("shared", None)).await), ErrorKind::DocumentNotFound);
        within(documents.upsert("shared", bucket, None)).await.unwrap();
        let found = within(documents.get("shared", None)).await.unwrap();
        assert_eq!(found.content_as::<String>().unwrap(), bucket);
    }
    server.move_vbuckets();
    let documents = connect_to(&server, "default").await.default_collection();
    within(documents.upsert("shared", 2, None)).await.unwrap();
    assert_eq!(server.documents_in("other", "_default", "_default")["shared"].value, b"\"other\"");
}

#[tokio::test]
async fn moved_vbuckets_are_followed() {
    let server = Server::start(Options { nodes: 2, ..Options::default() }).await.unwrap();
    let documents = connect(&server).await.default_collection();
    for round in 0..3 {
        for number in 0..20 {
            within(documents.upsert(format!("k{number}"), json!(round), None)).await.unwrap();
        }
        server.move_vbuckets();
    }
    assert!(server.documents("_default", "_default").values().all(|document| document.value == b"2"));
}

#[tokio::test]
async fn faults_strike_as_told() {
    let (server, bucket) = start().await;
    let documents = bucket.default_collection();
    server.inject(Fault::new(Action::Answer(status::INTERNAL)).on(opcode::SET).key("x").after(1));
    within(documents.upsert("y", json!(1), None)).await.unwrap();
    within(documents.upsert("x", json!(1), None)).await.unwrap();
    within(documents.upsert("x", json!(2), None)).await.unwrap_err();
    within(documents.upsert("x", json!(3), None)).await.unwrap();

    server.inject(Fault::new(Action::CutAfter));
    within(documents.upsert("x", json!(4), None)).await.unwrap_err();
    assert_eq!(server.document("x").unwrap().value, b"4");
    server.inject(Fault::new(Action::CutBefore));
    let _ = within(documents.upsert("x", json!(5), None)).await;
    // The SDK reconnects by itself, and the documents outlive the server.
    server.stop().await;
    server.resume().await.unwrap();
    within(documents.get("x", None)).await.unwrap();
}

#[tokio::test]
async fn tls_with_a_private_authority() {
    let certificates = Certificates::generate().unwrap();
    let server = Server::start(Options { tls: Some(certificates.clone()), ..Options::default() }).await.unwrap();
    let authority = rustls::pki_types::pem::PemObject::from_pem_slice(certificates.authority.as_bytes()).unwrap();
    let options = ClusterOptions::new(PasswordAuthenticator::new("Administrator", "password").into())
        .tls_options(TlsOptions::new().add_ca_certificate(authority));
    let cluster = within(Cluster::connect(server.url(), options)).await.unwrap();
    let bucket = cluster.bucket("default");
    within(bucket.default_collection().upsert("k", json!(1), None)).await.unwrap();
    assert!(server.document("k").is_some());
}
