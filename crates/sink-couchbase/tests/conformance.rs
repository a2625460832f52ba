//! The checks that every sink must pass: against the in-memory server, or against a real cluster where `COUCHBASE_URL`,
//! `COUCHBASE_USER`, `COUCHBASE_PASSWORD` and, unless it is `default`, `COUCHBASE_BUCKET` say where one is.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::collections::BTreeSet;
use std::env;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use connect_core::config::Section;
use connect_core::{Assigned, Batch, Outcome, Record, Rejection, Resume, Sink, SinkError};
use connect_testkit::conformance::{Dump, Harness, Place, Promise, conformance};
use couchbase::authenticator::PasswordAuthenticator;
use couchbase::cluster::Cluster;
use couchbase::options::cluster_options::ClusterOptions;
use couchbase_test_server::{Document, Options, Server};
use serde_json::json;
use sink_couchbase::op::Op;
use sink_couchbase::{CouchbaseConfig, CouchbaseSink};

/// Every id that a sink was asked to write, for a bucket can't list its documents.
type Ids = Arc<Mutex<BTreeSet<String>>>;

struct Couchbase {
    url: String,
    user: String,
    password: String,
    bucket: String,
    server: Option<Server>,
    ids: Ids,
    reader: Cluster,
}

impl Couchbase {
    async fn in_memory() -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        let url = server.url();
        Self::at(url, "Administrator".into(), "password".into(), "default".into(), Some(server)).await
    }

    async fn at(url: String, user: String, password: String, bucket: String, server: Option<Server>) -> Self {
        let options = ClusterOptions::new(PasswordAuthenticator::new(&user, &password).into());
        let reader = Box::pin(Cluster::connect(&url, options)).await.unwrap();
        Self { url, user, password, bucket, server, ids: Ids::default(), reader }
    }
}

/// The sink, with a note of each id.
struct Noting {
    sink: CouchbaseSink,
    ids: Ids,
}

impl Sink for Noting {
    type Op = Op;

    fn prepare(&self, record: &Record) -> Result<Option<Op>, Rejection> {
        let op = self.sink.prepare(record)?;
        let id = op.as_ref().map(|op| String::from_utf8_lossy(&op.id).into_owned());
        self.ids.lock().unwrap().extend(id);
        Ok(op)
    }

    fn target<'a>(&self, op: &'a Op) -> Option<&'a [u8]> {
        self.sink.target(op)
    }

    async fn write(&self, batch: &Batch<Op>) -> Result<Outcome, SinkError> {
        self.sink.write(batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.sink.check().await
    }

    async fn resume(&self, partition: &Assigned) -> Result<Resume, SinkError> {
        self.sink.resume(partition).await
    }
}

impl Harness for Couchbase {
    type Sink = Noting;

    async fn connect(&self, place: &Place) -> Result<Noting, SinkError> {
        if let Some(server) = &self.server {
            // A client goes to the addresses that the cluster tells it.
            server.advertise(place.through.map(|address| address.port()));
        }
        let url = place.through.map_or_else(|| self.url.clone(), |address| format!("couchbase://{address}"));
        let id = format!("{}:{{key}}", place.name);
        let password = if place.wrong_password { "not the password" } else { &self.password };
        let pairs = [
            ("CONNECT_COUCHBASE_URL", url.as_str()),
            ("CONNECT_COUCHBASE_USERNAME", &self.user),
            ("CONNECT_COUCHBASE_PASSWORD", password),
            ("CONNECT_COUCHBASE_BUCKET", &self.bucket),
            ("CONNECT_COUCHBASE_ID", &id),
            ("CONNECT_COUCHBASE_TIMEOUT", "2s"),
            ("CONNECT_COUCHBASE_DURABILITY", "none"),
        ];
        let config = CouchbaseConfig::from_pairs(&pairs).unwrap();
        let sink = CouchbaseSink::new(config).map_err(SinkError::fatal)?;
        if !place.wrong_password {
            sink.check().await?;
        }
        Ok(Noting { sink, ids: Arc::clone(&self.ids) })
    }

    async fn dump(&self, place: &Place) -> Dump {
        let prefix = format!("{}:", place.name);
        let ids: Vec<String> = self.ids.lock().unwrap().iter().filter(|id| id.starts_with(&prefix)).cloned().collect();
        let documents = self.reader.bucket(&self.bucket).default_collection();
        let mut dump = Dump::new();
        for id in ids {
            if let Ok(found) = Box::pin(documents.get(&id, None)).await {
                dump.insert(id[prefix.len()..].into(), found.content_as_raw().0.to_vec());
            }
        }
        dump
    }

    fn promises(&self) -> &[Promise] {
        &[Promise::Guarded, Promise::Deletes, Promise::Authenticates]
    }

    fn address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(Server::address)
    }

    /// A document whose attribute somebody else keeps something in.
    async fn poison(&self, place: &Place, record: Record) -> Option<Record> {
        let server = self.server.as_ref()?;
        let key = String::from_utf8_lossy(record.key.as_ref()?).into_owned();
        let id = format!("{}:{key}", place.name);
        let partition = format!("{}-{}", record.topic, record.partition);
        let xattrs = serde_json::from_value(json!({"_connect": {partition: "foreign"}})).unwrap();
        server.put(&id, Document { value: b"{}".to_vec(), xattrs, ..Document::default() });
        // It is not there for readers, as if it were refused for good.
        self.ids.lock().unwrap().remove(&id);
        Some(record)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_its_promises() {
    conformance(&Couchbase::in_memory().await).await.assert();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real cluster: set COUCHBASE_URL, COUCHBASE_USER and COUCHBASE_PASSWORD"]
async fn it_keeps_its_promises_on_a_real_cluster() {
    let Ok(url) = env::var("COUCHBASE_URL") else {
        println!("COUCHBASE_URL is not set: there is no real cluster to test on");
        return;
    };
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set, COUCHBASE_URL is"));
    let bucket = env::var("COUCHBASE_BUCKET").unwrap_or_else(|_| "default".to_owned());
    let cluster = Couchbase::at(url, variable("COUCHBASE_USER"), variable("COUCHBASE_PASSWORD"), bucket, None).await;
    conformance(&cluster).await.assert();
}
