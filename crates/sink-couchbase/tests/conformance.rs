//! The checks that every sink must pass: against the in-memory server, and against a real cluster where there is one.
//!
//! `COUCHBASE_URL`, `COUCHBASE_USER` and `COUCHBASE_PASSWORD` say where the cluster is; `COUCHBASE_BUCKET` the bucket, if it isn't
//! `default`; `COUCHBASE_CA_FILE` who signed its certificates, if it isn't an authority that the system knows.
//!
//! On one thread, for the reader's sake: a handle to a bucket of `couchbase` 1.1.0 that is just being opened looks whether it is
//! open and only then begins to listen for it. Where another thread opens it between the two, the call waits for ever (1 of
//! 200,000 did, with both cores busy). The sink does not use that handle.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::collections::BTreeSet;
use std::env;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connect_core::config::Section;
use connect_core::{Assigned, Batch, Context, Outcome, Record, Rejection, Resume, Settings, Sink, SinkError};
use connect_testkit::conformance::{Dump, Harness, Place, Promise, conformance};
use couchbase::authenticator::PasswordAuthenticator;
use couchbase::cluster::Cluster;
use couchbase::error::ErrorKind;
use couchbase::options::cluster_options::{ClusterOptions, TlsOptions};
use couchbase_test_server::{Action, Document, Fault, Options, Server, status};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use sink_couchbase::op::Op;
use sink_couchbase::{CouchbaseConfig, CouchbaseSink};
use tokio::time::timeout;

/// Long enough for a busy machine; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every id that a sink was asked to write, for a bucket can't list its documents.
type Ids = Arc<Mutex<BTreeSet<String>>>;

struct Couchbase {
    cluster: Location,
    server: Option<Server>,
    ids: Ids,
    reader: Cluster,
}

/// Where a cluster is.
struct Location {
    url: String,
    user: String,
    password: String,
    bucket: String,
    ca_file: Option<String>,
}

impl Couchbase {
    async fn in_memory() -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        let cluster = Location {
            url: server.url(),
            user: "Administrator".into(),
            password: "password".into(),
            bucket: "default".into(),
            ca_file: None,
        };
        Self::at(cluster, Some(server)).await
    }

    async fn at(cluster: Location, server: Option<Server>) -> Self {
        let user = PasswordAuthenticator::new(&cluster.user, &cluster.password);
        let mut options = ClusterOptions::new(user.into());
        if let Some(file) = &cluster.ca_file {
            let authority = CertificateDer::from_pem_file(file).unwrap();
            options = options.tls_options(TlsOptions::new().add_ca_certificate(authority));
        }
        let reader = timeout(PATIENCE, Box::pin(Cluster::connect(&cluster.url, options)));
        let reader = reader.await.expect("the cluster answers, and takes this user").unwrap();
        Self { cluster, server, ids: Ids::default(), reader }
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
        let url = place.through.map_or_else(|| self.cluster.url.clone(), |address| format!("couchbase://{address}"));
        let id = format!("{}:{{key}}", place.name);
        let password = if place.wrong_password { "not the password" } else { &self.cluster.password };
        let mut pairs = vec![
            ("CONNECT_COUCHBASE_URL", url.as_str()),
            ("CONNECT_COUCHBASE_USERNAME", &self.cluster.user),
            ("CONNECT_COUCHBASE_PASSWORD", password),
            ("CONNECT_COUCHBASE_BUCKET", &self.cluster.bucket),
            ("CONNECT_COUCHBASE_ID", &id),
            ("CONNECT_COUCHBASE_DURABILITY", "none"),
        ];
        pairs.extend(self.cluster.ca_file.as_deref().map(|file| ("CONNECT_COUCHBASE_CA_FILE", file)));
        let config = CouchbaseConfig::from_pairs(&pairs).unwrap();
        // The checks give up a call then.
        let settings = Settings { write_timeout: Duration::from_secs(15), ..Settings::default() };
        let context = Context { name: place.name.clone(), epoch: 0, topics: Vec::new(), settings };
        let sink = CouchbaseSink::new(config, &context).map_err(SinkError::fatal)?;
        if !place.wrong_password {
            sink.check().await?;
        }
        Ok(Noting { sink, ids: Arc::clone(&self.ids) })
    }

    async fn dump(&self, place: &Place) -> Dump {
        let prefix = format!("{}:", place.name);
        let ids: Vec<String> = self.ids.lock().unwrap().iter().filter(|id| id.starts_with(&prefix)).cloned().collect();
        let documents = self.reader.bucket(&self.cluster.bucket).default_collection();
        let mut dump = Dump::new();
        for id in ids {
            let found = timeout(PATIENCE, Box::pin(documents.get(&id, None))).await.expect("an answer");
            match found {
                Ok(found) => drop(dump.insert(id[prefix.len()..].into(), found.content_as_raw().0.to_vec())),
                Err(error) => assert_eq!(error.kind(), &ErrorKind::DocumentNotFound, "{error}"),
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

    /// A document that is locked for longer than the client tries by itself.
    async fn push_back(&self, place: &Place, record: Record) -> Option<Record> {
        let id = format!("{}:{}", place.name, String::from_utf8_lossy(record.key.as_ref()?));
        self.server.as_ref()?.inject(Fault::new(Action::Answer(status::LOCKED)).key(&id).times(10));
        Some(record)
    }
}

/// Runs the checks: nothing may be left unsaid but this, and what keeps its offsets elsewhere can't promise.
async fn conforms(couchbase: Couchbase, not_promised: &[&str]) {
    let report = conformance(&couchbase).await;
    report.assert();
    let offsets = [
        "resume names no offset where nothing was written",
        "resume names the offset behind the last batch",
        "a batch without items moves the offset",
        "a batch that expects another offset is refused",
        "a process that lost its partition can't write",
    ];
    let mut found = report.not_promised();
    found.retain(|name| !offsets.contains(name));
    assert_eq!(found, not_promised);
}

#[tokio::test]
async fn it_keeps_its_promises() {
    conforms(Couchbase::in_memory().await, &[]).await;
}

/// `cargo xtask test` runs this where `COUCHBASE_URL` is set, and else says that it was not run.
#[tokio::test]
#[ignore = "needs a real cluster: set COUCHBASE_URL, COUCHBASE_USER and COUCHBASE_PASSWORD"]
async fn it_keeps_its_promises_on_a_real_cluster() {
    let variable =
        |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set: it says where a cluster is"));
    let cluster = Location {
        url: variable("COUCHBASE_URL"),
        user: variable("COUCHBASE_USER"),
        password: variable("COUCHBASE_PASSWORD"),
        bucket: env::var("COUCHBASE_BUCKET").unwrap_or_else(|_| "default".to_owned()),
        ca_file: env::var("COUCHBASE_CA_FILE").ok(),
    };
    // No proxy stands before a cluster whose nodes tell their addresses, and nobody makes it refuse a document.
    let not_promised = [
        "what the store refuses is named exactly",
        "what the store puts off is named exactly",
        "a refused connection is Transient",
        "a connection reset before applying",
        "a connection reset after applying",
        "a connection closed after applying",
        "a store that answers nothing",
        "answers in slices of 7 bytes",
        "a late request lands after newer ones",
    ];
    conforms(Couchbase::at(cluster, None).await, &not_promised).await;
}
