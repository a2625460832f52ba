//! Where Redis is and how it is reached: TLS, sockets, databases, Sentinel.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use connect_core::{Outcome, Record, Sink};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::time::{Instant, sleep};
use xtask::packages::REDIS_SERVER;
use xtask::ports;
use xtask::process::{self, Lifetime, Process};
use xtask::services::{Redis, RedisOptions, Tls};

use crate::core::deliver;
use crate::support::{Server, record, sink, start, transient, write};

/// An authority, and certificates that it signed, in a directory.
fn certificates(directory: &Path) -> Tls {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = params.self_signed(&key).unwrap();
    fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    Tls {
        certificate: directory.join("server.pem"),
        key: directory.join("server.key"),
        authority: directory.join("ca.pem"),
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn over_tls_with_an_authority_of_ones_own() {
    let directory = tempfile::tempdir().unwrap();
    let tls = certificates(directory.path());
    let authority = tls.authority.to_str().unwrap().to_owned();
    let redis = Redis::start(RedisOptions { tls: Some(tls), ..RedisOptions::default() }).await.unwrap();
    let trusting = sink(&redis.url(), &[("CONNECT_REDIS_CA_FILE", &authority)]);
    assert_eq!(trusting.check().await, Ok(()));
    start(&trusting).await;
    assert_eq!(write(&trusting, 0, &[record(0, "a", "1")]).await, Outcome::written());
    let result = sink(&redis.url(), &[]).check().await;
    assert!(format!("{result:?}").contains("UnknownIssuer"), "{result:?}");
    assert_eq!(transient(result), "connection");
    let plain = redis.url().replace("rediss://", "redis://");
    transient(sink(&plain, &[("CONNECT_REDIS_TIMEOUT", "1s")]).check().await);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn over_tls_with_a_certificate_of_ones_own() {
    let directory = tempfile::tempdir().unwrap();
    let tls = certificates(directory.path());
    let authority = tls.authority.to_str().unwrap().to_owned();
    let redis = Redis::start(RedisOptions { tls: Some(tls), ..RedisOptions::default() }).await.unwrap();
    let set = std::process::Command::new("redis-cli")
        .args(["-p", &redis.port().to_string(), "--tls", "--cacert", &authority])
        .args(["CONFIG", "SET", "tls-auth-clients", "yes"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&set.stdout).trim(), "OK");
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (file("client.pem"), file("client.key"));
    let known = sink(
        &redis.url(),
        &[
            ("CONNECT_REDIS_CA_FILE", &authority),
            ("CONNECT_REDIS_CERT_FILE", &certificate),
            ("CONNECT_REDIS_KEY_FILE", &key),
        ],
    );
    assert_eq!(known.check().await, Ok(()));
    let unknown = sink(&redis.url(), &[("CONNECT_REDIS_CA_FILE", &authority), ("CONNECT_REDIS_TIMEOUT", "1s")]);
    transient(unknown.check().await);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("redis.sock");
    let socket = socket.to_str().unwrap();
    let server = Server::start_with(&["--unixsocket", socket]).await;
    let sink = sink(&format!("redis+unix://{socket}"), &[]);
    assert_eq!(sink.check().await, Ok(()));
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1")]).await;
    assert_eq!(server.ask("GET a").await, "1");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn data_and_offsets_are_in_the_database_of_the_url() {
    let server = Server::start().await;
    let sink = sink(&format!("{}/3", server.redis.url()), &[]);
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1")]).await;
    assert_eq!(server.ask("DBSIZE").await, "0");
    server.ask("SELECT 3").await;
    assert_eq!(server.ask("GET a").await, "1");
    assert_eq!(server.stored().await, "1");
}

/// A process that watches a master and promotes its replica.
struct Sentinel {
    port: u16,
    _process: Process,
}

impl Sentinel {
    fn start(directory: &Path, master: u16) -> Self {
        let port = ports::free().unwrap();
        let file: PathBuf = directory.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000\n",
            directory.display()
        );
        fs::write(&file, text).unwrap();
        let mut command = process::command(REDIS_SERVER.program, Lifetime::Owned);
        command.arg(&file).arg("--sentinel");
        let process = Process::spawn_logged("sentinel", command, directory.join("sentinel.log")).unwrap();
        Self { port, _process: process }
    }

    fn ask(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let output = std::process::Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().replace('\n', " ")
    }

    /// Waits until the answer holds this text.
    async fn until(&self, words: &[&str], text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.ask(words).contains(text) {
            assert!(Instant::now() < deadline, "{words:?}: {}", self.ask(words));
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn sentinel_moves_the_master_during_load() {
    let directory = tempfile::tempdir().unwrap();
    let mut master = Server::start().await;
    let old = master.redis.port();
    let replica = Server::start_with(&["--replicaof", "127.0.0.1", &old.to_string()]).await;
    let new = replica.redis.port();
    let sentinel = Sentinel::start(directory.path(), old);
    sentinel.until(&["SENTINEL", "REPLICAS", "main"], &new.to_string()).await;
    let url = format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=main", sentinel.port);
    let settings =
        [("CONNECT_REDIS_COMMAND", "incrby"), ("CONNECT_REDIS_KEY", "n{value}"), ("CONNECT_REDIS_TIMEOUT", "2s")];
    let sink = sink(&url, &settings);
    assert_eq!(sink.check().await, Ok(()));
    let records: Vec<Record> = (0..60_000).map(|i| record(i, "k", (i % 10).to_string())).collect();
    let (_, ()) = tokio::join!(deliver(&sink, &records, 100), async {
        // A third is written by then; killed without warning.
        let deadline = Instant::now() + Duration::from_secs(60);
        while master.stored().await.parse::<i64>().unwrap_or(0) < 20_000 {
            assert!(Instant::now() < deadline);
            sleep(Duration::from_millis(1)).await;
        }
        master.redis.stop();
        sentinel.until(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"], &new.to_string()).await;
    });
    for n in 0..10 {
        assert_eq!(replica.ask(&format!("GET n{n}")).await, "6000");
    }
    assert_eq!(replica.stored().await, "60000");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_master_that_became_a_replica_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let master = Server::start().await;
    let port = master.redis.port().to_string();
    let replica = Server::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    let new = replica.redis.port().to_string();
    let sentinel = Sentinel::start(directory.path(), master.redis.port());
    sentinel.until(&["SENTINEL", "REPLICAS", "main"], &new).await;
    let url = format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=main", sentinel.port);
    let sink = sink(&url, &[("CONNECT_REDIS_TIMEOUT", "2s")]);
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1")]).await;
    // An orderly fail-over: the connection to the old master stays open, it answers READONLY from then on.
    sentinel.until(&["SENTINEL", "FAILOVER", "main"], "OK").await;
    sentinel.until(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"], &new).await;
    // What the old master still took is lost with it: the next write notices, and all of it is written again.
    let records: Vec<Record> = (0..1_000).map(|i| record(i, "a", i.to_string())).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    for count in 2..=records.len() {
        deliver(&sink, &records[..count], 10).await;
        if replica.stored().await == count.to_string() {
            assert_eq!(replica.ask("GET a").await, (count - 1).to_string());
            return;
        }
        assert!(Instant::now() < deadline, "the new master never got anything");
        sleep(Duration::from_millis(50)).await;
    }
    panic!("the new master never got anything");
}
