//! What the images hold, built and run as a pod would run it: a root directory of its own with the static binary and the
//! authorities that TLS trusts, mounted read-only, and a user who may do nothing.
//!
//! Every server is reached by a name, because to look up names is what a static binary is known to fail at.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use rskafka::client::Client;
use tempfile::TempDir;

use super::tools::succeed;
use crate::{
    certificates::Certificates,
    connector::Connector,
    events::Events,
    kafka_client::{self, Producer},
    paths,
    process::{self, Lifetime},
    services::{
        Couchbase, CouchbaseOptions, Elasticsearch, ElasticsearchOptions, Kafka, KafkaOptions, Redis, RedisOptions, Tls,
    },
    static_binary::{Sources, most_mib, static_target},
};

const TOPIC: &str = "contents";
const PARTITIONS: i32 = 4;
const RECORDS: u64 = 10_000;
/// Makes the directory the root of a connector, which then has the id of this process. `/proc` is what every container has.
const ENTER: &str = r#"
mount --bind "$0" "$0" && mount --rbind /proc "$0/proc" && mount -o remount,bind,ro "$0" &&
exec chroot --userspec=65532:65532 --groups= "$0" /connector
"#;

/// Builds the three and lets each write a topic into its store.
///
/// # Errors
/// One can't be built, weighs too much, or doesn't write everything.
pub async fn check() -> Result<()> {
    possible()?;
    let sources = Sources::copy()?;
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    produce(&client).await?;
    let directory = tempfile::tempdir_in(paths::services())?;
    let certificates = Certificates::in_directory(directory.path())?;

    let tls =
        Tls { certificate: certificates.server(), key: certificates.server_key(), authority: certificates.authority() };
    let redis = Redis::start(RedisOptions { tls: Some(tls), ..RedisOptions::default() }).await?;
    run("sink-redis", &sources, &kafka, &certificates, &[("CONNECT_REDIS_URL", redis.url())]).await?;
    drop(redis);

    let couchbase = Couchbase::start(CouchbaseOptions::default()).await?;
    run("sink-couchbase", &sources, &kafka, &certificates, &couchbase.environment()).await?;
    drop(couchbase);

    let elasticsearch = Elasticsearch::start(ElasticsearchOptions::default()).await?;
    run("sink-elasticsearch", &sources, &kafka, &certificates, &[("CONNECT_ELASTICSEARCH_URLS", elasticsearch.url())])
        .await
}

/// Whether this can be done here at all, which is asked before anything that takes long.
///
/// # Errors
/// What is missing, and what gives it.
pub fn possible() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root may give a process another root directory: run this with sudo");
    }
    succeed("unshare", Command::new("unshare").args(["--mount", "true"]))
        .context("mounts of its own need CAP_SYS_ADMIN: in a container, run that with --cap-add SYS_ADMIN")?;
    static_target().map(drop)
}

async fn produce(client: &Client) -> Result<()> {
    kafka_client::create_topic(client, TOPIC, PARTITIONS).await?;
    let mut producer = Producer::new(client, TOPIC, PARTITIONS).await?;
    let events = Events::new(1, RECORDS, Utc::now());
    for number in 0..RECORDS {
        producer.send(events.user(number) as usize, events.record(number)).await?;
    }
    producer.finish().await
}

async fn run(
    package: &str,
    sources: &Sources,
    kafka: &Kafka,
    certificates: &Certificates,
    store: &[(&'static str, String)],
) -> Result<()> {
    let binary = sources.build(package)?;
    let size = binary.metadata()?.len() as f64 / (1024.0 * 1024.0);
    let most = most_mib(package);
    if size > most {
        bail!("{} weighs {size:.1} MiB, more than {most}", binary.display());
    }
    let root = root(&binary, &certificates.authority())?;
    let mut enter = process::command("unshare", Lifetime::Owned);
    enter.args(["--mount", "sh", "-c", ENTER]).arg(root.path());
    let own = [
        ("CONNECT_NAME", package.to_owned()),
        ("CONNECT_KAFKA_BROKERS", kafka.bootstrap()),
        ("CONNECT_KAFKA_TOPICS", TOPIC.to_owned()),
        // As the Dockerfile sets it.
        ("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt".to_owned()),
    ];
    let named: Vec<_> =
        own.iter().chain(store).map(|(name, value)| (*name, value.replace("127.0.0.1", "localhost"))).collect();
    let environment: Vec<_> = named.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let log = tempfile::NamedTempFile::new_in(paths::services())?;
    let mut connector = Connector::start_by(package, enter, &environment, log.path())?;
    connector.wait_until_written(RECORDS).await?;
    let status = fs::read_to_string(format!("/proc/{}/status", connector.process().pid()))?;
    if !status.contains("\nUid:\t65532\t") || !status.contains("\nCapEff:\t0000000000000000\n") {
        bail!("{package} ran as another user than that of the image:\n{status}");
    }
    connector.drain().await?;
    println!("{package}: {size:.1} MiB, static; wrote {RECORDS} records from a root directory of its own");
    Ok(())
}

/// What the image holds, and what the runtime adds to every container: names, name servers and a place for `/proc`.
fn root(binary: &Path, authority: &Path) -> Result<TempDir> {
    let root = tempfile::tempdir_in(paths::services())?;
    let file = |name: &str| -> Result<PathBuf> {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        Ok(path)
    };
    fs::copy(binary, file("connector")?)?;
    fs::copy(authority, file("etc/ssl/certs/ca-certificates.crt")?)?;
    fs::write(file("etc/hosts")?, "127.0.0.1 localhost\n")?;
    fs::write(file("etc/resolv.conf")?, "")?;
    fs::create_dir(root.path().join("proc"))?;
    // A temporary directory is its owner's alone.
    let mut open = Command::new("chmod");
    succeed("chmod", open.args(["-R", "a+rX"]).arg(root.path()))?;
    Ok(root)
}
